"""core/json_scan.py: the end of a JSON object is found, and whether it is valid."""

from __future__ import annotations

import json
import time
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.json_scan import ObjectScanner

VALID = [
    "{}",
    "{ }",
    '{"a":1}',
    '{\n\t"a" : [ ] , "b"\r:{ } }',
    '{"a":[1,-2,0,-0,10.25,1e5,1E+5,1.5e-05,0e0],"b":true,"c":false,"d":null}',
    '{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\ude00 } ] , :"}',
    '{"a":[[],[{}],{"b":[{"c":"}"}]}]}',
    '{"天气":"🏃‍♂️","":"","a":"\x7f\u2028"}',
    '{"a":1,"a":2}',
]
LOST = [
    "[1]",
    "a{}",
    " {}",
    "{,}",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    '{"a":1 2}',
    "{'a':1}",
    "{a:1}",
    '{"a":[1,]}',
    '{"a":[1}]',
    '{"a":[1}}',
    '{"a":{]}',
    '{"a":NaN}',
    '{"a":Infinity}',
    '{"a":tru}',
    '{"a":truee}',
    '{"a":nulll}',
    '{"a":01}',
    '{"a":-}',
    '{"a":+1}',
    '{"a":.5}',
    '{"a":1.}',
    '{"a":1.e5}',
    '{"a":1e}',
    '{"a":1e+}',
    '{"a":0x1}',
    '{"a":--1}',
    '{"a":"x""y"}',
    '{"a"::1}',
    '{"a":1\x0b}',
    '{"a":１}',
]
FAULTY_STRINGS = ["\n", "\x00", "\x1f", "\\x", "\\u12", "\\u12g4", "\\u", "\\'", "\\\n", "\\U0041"]


def scan(text: str, size: int = 0) -> tuple[ObjectScanner, int]:
    """Feed `text` in pieces of `size` up to the object's end. Return how many characters belong to the object."""
    scanner = ObjectScanner()
    size = size or len(text) or 1
    used = 0
    for start in range(0, len(text), size):
        used += scanner.feed(text[start : start + size])
        if scanner.closed:
            break
    return scanner, used


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("text", VALID)
def test_an_object_ends_where_it_closes(text: str, size: int) -> None:
    json.loads(text)
    scanner, used = scan(text + "} more", size)
    assert (scanner.closed, scanner.valid, used) == (True, True, len(text))


@pytest.mark.parametrize("text", VALID)
def test_a_truncated_object_is_open_and_has_no_fault(text: str) -> None:
    for length in range(1, len(text)):
        for size in (0, 1):
            scanner, used = scan(text[:length], size)
            assert (scanner.started, scanner.closed, scanner.valid, used) == (True, False, True, length)


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("text", LOST)
def test_text_that_is_no_object_never_closes(text: str, size: int) -> None:
    whole = text + '}]}"}'
    scanner, used = scan(whole, size)
    assert (scanner.closed, scanner.valid, scanner.in_string, used) == (False, False, False, len(whole))


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTY_STRINGS)
def test_a_fault_inside_a_string_does_not_hide_the_end(fault: str, size: int) -> None:
    text = '{"a":"x' + fault + '","b":"}"}'
    scanner, used = scan(text + "more", size)
    assert (scanner.closed, scanner.valid, used) == (True, False, len(text))


def test_a_scanner_knows_whether_it_is_inside_a_string() -> None:
    scanner = ObjectScanner()
    seen = []
    for character in '{"a\\"":"b","c":1}':
        scanner.feed(character)
        seen.append("s" if scanner.in_string else ".")
    assert "".join(seen) == ".ssss..ss..ss...."[: len(seen)]


def test_nothing_fed_is_nothing_started() -> None:
    scanner = ObjectScanner()
    assert (scanner.feed(""), scanner.started, scanner.closed) == (0, False, False)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _is_object(text: str) -> bool:
    """Python's own decoder, set to refuse NaN and Infinity."""
    try:
        return text[:1] + text[-1:] == "{}" and isinstance(json.loads(text, parse_constant=_no_constant), dict)
    except ValueError:
        return False


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OBJECTS: Any = st.builds(
    lambda value, ascii_, indent: json.dumps(value, ensure_ascii=ascii_, indent=indent),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)


@given(OBJECTS, st.text(max_size=5), st.integers(1, 9))
def test_every_object_is_found_whatever_follows(text: str, rest: str, size: int) -> None:
    scanner, used = scan(text + rest, size)
    assert (scanner.closed, scanner.valid, used) == (True, True, len(text))


@st.composite
def _damaged(draw: Any) -> str:
    text: str = draw(OBJECTS)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 2))
        text = text[:place] + draw(st.text('{}[]",:\\u0123eE+-.tfn \nx', max_size=3)) + text[place + cut :]
    return text


@given(_damaged(), st.integers(0, 5))
def test_closed_and_valid_means_what_the_json_decoder_says(text: str, size: int) -> None:
    scanner, used = scan(text, size)
    assert (scanner.closed and scanner.valid and used == len(text)) == _is_object(text)


@given(_damaged(), st.lists(st.integers(0, 60)))
def test_the_split_of_the_text_changes_nothing(text: str, cuts: list[int]) -> None:
    whole, used = scan(text)
    scanner, fed, start = ObjectScanner(), 0, 0
    for cut in (*sorted(cuts), len(text)):
        if not scanner.closed:
            fed += scanner.feed(text[start:cut])
            start = max(start, min(cut, len(text)))
    assert (scanner.closed, scanner.valid, scanner.in_string, fed) == (whole.closed, whole.valid, whole.in_string, used)


@pytest.mark.parametrize("unit", ['"ab",', '"a\\"b",', "[[1],2],", '"\\\\\\n",', "        1,"])
def test_time_is_linear_in_one_piece(unit: str) -> None:
    """The rest of a piece is not searched again at every escape: a quadratic scan would take minutes here."""
    text = '{"a":[' + unit * 100_000 + "1]}"
    started = time.process_time()
    scanner, used = scan(text)
    assert (scanner.closed, scanner.valid, used) == (True, True, len(text))
    assert time.process_time() - started < 5


def loads_strictly(text: str) -> bool:
    def refuse(_: str) -> None:
        raise ValueError

    try:
        return isinstance(json.loads(text, parse_constant=refuse), dict)
    except ValueError:
        return False


TEMPLATES = ['{"a": -1.5e+10, "b": [0, true]}', '{"a": "\\u00e9 \\n", "b": {}}']


@pytest.mark.parametrize(
    "character", [chr(code) for code in range(0x20, 0x7F)] + ["\t", "\n", "\r", "\x0b", "\x00", "é"]
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_character_put_in_or_changed_anywhere_is_judged_as_json_is(template: str, character: str) -> None:
    for place in range(1, len(template)):
        for text in (template[:place] + character + template[place + rest :] for rest in (0, 1)):
            scanner = ObjectScanner()
            whole = scanner.feed(text) == len(text) and scanner.closed and scanner.valid
            assert whole == loads_strictly(text), text
