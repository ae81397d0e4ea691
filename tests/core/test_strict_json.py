"""core/strict_json.py: bounds are checked first, and only unambiguous JSON is accepted."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidJson, LimitExceeded
from kimi_k2_serving.core.limits import JSON_BYTES, JSON_DEPTH, JSON_NODES
from kimi_k2_serving.core.messages import Json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.text('\\"[]{},:\n')
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text('\\"[]{},') | TEXT, inner), max_leaves=20
)


def narrow(digits: str) -> int | float:
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


def halved(text: str) -> str:
    """Escaped JSON, with U+FFFD in the place of each half of a surrogate pair."""
    whole = json.dumps(json.loads(text), ensure_ascii=False)
    return "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in whole)


def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)


@given(VALUES, st.booleans(), st.booleans())
def test_an_encoded_value_is_decoded_unchanged(value: Json, ascii_only: bool, as_bytes: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert strict_json.loads(text.encode() if as_bytes else text, field="f") == value


@given(st.text('\\"[]{},:1 ') | TEXT)
def test_any_text_is_a_value_or_one_error_that_names_the_field(text: str) -> None:
    try:
        expected = json.loads(text, parse_int=narrow, object_pairs_hook=unique)
        json.dumps(expected, ensure_ascii=False, allow_nan=False)
    except ValueError:
        with pytest.raises(InvalidJson) as caught:
            strict_json.loads(text, field="tools")
        assert caught.value.field == "tools"
    else:
        assert strict_json.loads(text, field="tools") == json.loads(halved(json.dumps(expected)))


def test_keys_keep_their_order() -> None:
    value = strict_json.loads('{"b": 1, "a": 2}', field="f")
    assert isinstance(value, dict)
    assert list(value) == ["b", "a"]


def test_a_document_at_the_depth_limit_is_read_and_one_deeper_is_not() -> None:
    at_limit = "[" * JSON_DEPTH.value + "]" * JSON_DEPTH.value
    assert strict_json.loads(at_limit, field="f")
    with pytest.raises(LimitExceeded, match="json_depth") as caught:
        strict_json.loads(f"[{at_limit}]", field="messages")
    assert caught.value.field == "messages"


def test_a_hundred_thousand_open_brackets_are_refused_before_decoding() -> None:
    with pytest.raises(LimitExceeded, match="100000 levels"):
        strict_json.loads('{"a":' * 50_000 + "[" * 50_000, field="f")


def test_brackets_and_commas_inside_strings_are_not_counted() -> None:
    text = json.dumps(["[{" * 1000, '\\"[' * 1000, {'"{,': "\\" * 1001}, "," * (JSON_NODES.value + 1)])
    assert strict_json.loads(text, field="f") == json.loads(text)


def test_brackets_after_a_string_that_ends_in_backslashes_are_counted() -> None:
    deep = "[" * (JSON_DEPTH.value + 1)
    with pytest.raises(LimitExceeded, match="json_depth"):
        strict_json.loads(r'["\\", "\\\\", ' + deep, field="f")


def test_values_are_counted_before_decoding() -> None:
    within = "[" + ",".join(["1"] * (JSON_NODES.value - 1)) + "]"
    value = strict_json.loads(within, field="f")
    assert isinstance(value, list)
    assert len(value) == JSON_NODES.value - 1
    with pytest.raises(LimitExceeded, match=f"{JSON_NODES.value + 1} values"):
        strict_json.loads(f"[1,{within[1:]}", field="f")


def test_many_quotes_are_refused_before_they_take_memory() -> None:
    with pytest.raises(LimitExceeded, match="500001 values"):
        strict_json.loads(b'"' * (4 * JSON_NODES.value + 4), field="f")


def test_escaped_quotes_do_not_count_as_values() -> None:
    text = "'" + '"' * (5 * JSON_NODES.value)
    assert strict_json.loads(json.dumps(text), field="f") == text


@pytest.mark.parametrize("text", ["x" * (JSON_BYTES.value + 1), b"x" * (JSON_BYTES.value + 1), "漢" * (2**22 + 2**21)])
def test_bytes_are_counted_before_anything_else(text: str | bytes) -> None:
    with pytest.raises(LimitExceeded, match="json_bytes"):
        strict_json.loads(text, field="f")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_nan_and_infinity_are_refused(text: str) -> None:
    with pytest.raises(InvalidJson, match="NaN and Infinity"):
        strict_json.loads(text, field="f")


@pytest.mark.parametrize("text", ["1e999", "-1e999", "9" * 5000, "-" + "9" * 1_000_000])
def test_a_number_too_large_for_a_double_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(InvalidJson, match="too large for a double; send it as a string"):
        strict_json.loads(text, field="f")


@pytest.mark.parametrize("value", [-(2**63), 2**64 - 1])
def test_sixty_four_bit_integers_are_read_exactly(value: int) -> None:
    read = strict_json.loads(str(value), field="f")
    assert (type(read), read) == (int, value)


@pytest.mark.parametrize("value", [-(2**63) - 1, 2**64, 10**19 * 2, 10**25, -(10**300)])
def test_wider_integers_are_read_as_the_nearest_double(value: int) -> None:
    read = strict_json.loads(str(value), field="f")
    assert (type(read), read) == (float, float(value))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r'"a\ud800"', "a\ufffd"),
        (r'{"a\uDc00": 1.5, "b": 1e25}', {"a\ufffd": 1.5, "b": 1e25}),
        (r'["\ud83d", "\ude00"]', ["\ufffd", "\ufffd"]),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ud83d\ude00\ude00"', "\ufffd😀\ufffd"),
        (r'"\ud83dA\ud83d😀"', "\ufffdA\ufffd😀"),
        (r'"\\ud800"', r"\ud800"),
        (r'{"\ud800": 1, "\ud801": 2}', {"\ufffd": 2}),
    ],
)
def test_each_half_of_a_surrogate_pair_is_read_as_a_replacement_character(text: str, read: Json) -> None:
    assert strict_json.loads(text, field="f") == read


@given(st.text(st.characters() | st.characters(categories=["Cs"])))
def test_any_text_of_a_tool_is_read_with_one_character_for_each_half(text: str) -> None:
    expected = "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in joined(text))
    assert strict_json.loads(json.dumps(text), field="f") == expected


def joined(text: str) -> str:
    """Halves that stand side by side in JSON are one character."""
    return cast(str, json.loads(json.dumps(text)))


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\uD83D\uDE00"'])
def test_a_whole_surrogate_pair_is_one_character(text: str) -> None:
    assert strict_json.loads(text, field="f") == "😀"


@pytest.mark.parametrize("text", [b'"\xff"', '"\ud800"', b'\xff\xfe"\x00a\x00"\x00'])
def test_what_is_not_utf8_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidJson, match="UTF-8"):
        strict_json.loads(text, field="f")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"x": {"a": 1, "b": 2, "a": null}}]', r'{"a": 1, "\u0061": 2}'])
def test_a_repeated_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidJson, match="same key twice"):
        strict_json.loads(text, field="f")


def test_invalid_json_is_refused_with_the_position_and_without_the_text() -> None:
    with pytest.raises(InvalidJson) as caught:
        strict_json.loads('{"secret": secret}', field="tools")
    assert str(caught.value) == "invalid_json: tools: not JSON, at character 11 of 18"


def test_objects_count_as_values() -> None:
    """An empty object counts as two values, like an empty array."""
    half = JSON_NODES.value // 2
    for empty in ("{}", "[]"):
        assert strict_json.loads(f"[{','.join([empty] * (half - 1))}]", field="f") == [json.loads(empty)] * (half - 1)
        with pytest.raises(LimitExceeded):
            strict_json.loads(f"[{','.join([empty] * (half + 1))}]", field="f")


def test_escaped_quotes_do_not_count_as_strings() -> None:
    """One value with more quotes than the maximum number of values could have."""
    quotes = '"' * (5 * JSON_NODES.value)
    assert strict_json.loads(json.dumps(quotes), field="f") == quotes


@pytest.mark.parametrize("text", ['"?\\""', '"\\\\?\\""', '"a\\\\\\""'])
def test_an_escaped_quote_does_not_end_a_string(text: str) -> None:
    deep = "[" * (JSON_DEPTH.value + 1)
    inside = text[:-1] + deep + '"'
    assert strict_json.loads(inside, field="f") == json.loads(inside)


def test_an_invalid_character_does_not_count_as_depth() -> None:
    for character in map(chr, set(range(128)) - set(b'[{"')):
        with pytest.raises(InvalidJson):
            strict_json.loads(f"{character * 200}]", field="f")
