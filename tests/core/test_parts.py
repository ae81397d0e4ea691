"""core/parts.py: content of a tool in the history is read or replaced by a sentence, never refused (rule P14)."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidRequest
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.parts import absent, content_text, result_text
from tests.core.test_chat import USER, call

TEXT: Json = {"type": "text", "text": "a"}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
RESULT: dict[str, Json] = {"role": "tool", "tool_call_id": "c"}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("a", "a"),
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "refusal", "refusal": "no"}, "no"),
        ({"type": "tool_reference", "tool_name": "t"}, "t"),
        (IMAGE, "[an image was here; this model reads text only]"),
        ({"type": "document", "source": {"type": "base64", "data": "AA=="}}, absent("document")),
        ({"type": "document", "title": "T", "source": {"type": "text", "data": "a"}}, "T\na"),
        (
            {"type": "document", "source": {"type": "content", "content": [TEXT, {"type": "image"}]}},
            "a\n" + absent("image"),
        ),
        ({"type": "document", "source": {"type": "content", "content": "a"}}, "a"),
        ({"type": "search_result", "source": "u", "title": "T", "content": [TEXT]}, "T\nu\na"),
        ({"type": "resource", "resource": {"uri": "u", "text": "a"}}, "a"),
        ({"type": "resource", "resource": {"uri": "u", "blob": "AA=="}}, absent("?")),
        ({"type": "input_file", "file_id": "f"}, "[a file was here; this model reads text only]"),
        (
            {"type": "document", "source": {"type": "content", "content": [5, {"type": "text"}, TEXT]}},
            "a",
        ),
        ({"type": "document", "source": {"type": "text", "data": "a"}, "content": [{"type": "text", "text": ""}]}, "a"),
        ({"type": "novelty", "text": 5}, "[something was here; this model reads text only]"),
    ],
)
def test_p14_a_part_is_read_or_replaced_by_a_sentence(part: Any, text: str) -> None:
    assert content_text([part]) == text


def test_p14_texts_join_without_a_separator_and_other_parts_get_their_own_lines() -> None:
    image = absent("image_url")
    assert content_text([TEXT, TEXT]) == "aa"
    assert content_text([TEXT, IMAGE, TEXT, IMAGE, IMAGE]) == f"a\n{image}\na\n{image}\n{image}"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("a", "a"),
        ([], ""),
        (TEXT, "a"),
        ([TEXT, "b"], "ab"),
        ({"type": "search_result", "content": [TEXT]}, "a"),
        ({"type": "circle", "größe": 1}, '{"type": "circle", "größe": 1}'),
        ([{"a": 1}, TEXT], '{"a": 1}\na'),
        ([{"a": 1}, 5, None], '[{"a": 1}, 5, null]'),
        (5, "5"),
        (False, "false"),
    ],
)
def test_p14_a_result_of_any_json_is_read(content: Any, text: str) -> None:
    assert result_text(content) == text
    (*_, last) = read_conversation(messages=[USER, call(), {**RESULT, "content": content}]).messages
    assert last.content == text


def test_p14_a_result_may_be_missing() -> None:
    assert read_conversation(messages=[USER, call(), RESULT]).messages[-1].content == ""


@pytest.mark.parametrize("last", [{**RESULT, "content": [IMAGE]}, {"role": "user", "content": [TEXT, IMAGE]}])
def test_p14_content_from_a_tool_is_never_refused(last: Json) -> None:
    result: Json = {**RESULT, "content": [TEXT, {"type": "input_file", "file_id": "f"}]}
    history = [USER, call(), *([result] if last["role"] == "user" else []), last]  # type: ignore[index, call-overload]
    assert "this model reads text only" in read_conversation(messages=history).messages[-1].content


@pytest.mark.parametrize(
    "history",
    [
        [{"role": "user", "content": [IMAGE]}],
        [
            USER,
            call(),
            {**RESULT, "content": "x"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": [IMAGE]},
        ],
        [{"role": "system", "content": [IMAGE]}, USER],
    ],
)
def test_p14_what_the_user_sends_is_refused_by_its_path(history: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_conversation(messages=history)
    assert caught.value.field.endswith(".content[0].type")


UNREADABLE: list[tuple[Any, str]] = [
    (None, ""),
    (5, "5"),
    (False, "false"),
    ([TEXT], '[{"type": "text", "text": "a"}]'),
    ({}, "{}"),
    ({"type": None}, '{"type": null}'),
    ({"type": ["text"]}, '{"type": ["text"]}'),
    ({"text": "a"}, '{"text": "a"}'),
    ({"type": "text"}, ""),
    ({"type": "text", "text": None}, ""),
    ({"type": "text", "text": 5}, "5"),
    ({"type": "text", "text": {"ä": 1}}, '{"ä": 1}'),
    ({"type": "refusal", "refusal": None}, ""),
    ({"type": "tool_reference"}, ""),
    ({"type": "document", "content": [{"type": ["text"], "text": "a"}]}, absent("?")),
]


@pytest.mark.parametrize(("part", "text"), UNREADABLE)
def test_p14_a_part_that_is_none_is_empty_or_json_and_leaves_the_parts_beside_it_alone(part: Any, text: str) -> None:
    assert content_text([part]) == text
    alone = text and not (isinstance(part, dict) and part.get("type") == "text")
    lines = f"a\n{text}\n" if alone else f"a{text}"
    after = "" if lines.endswith("\n") else "\n"
    assert result_text([TEXT, part, IMAGE]) == f"{lines}{after}{absent('image_url')}"


@pytest.mark.parametrize(("part", "text"), UNREADABLE)
@pytest.mark.parametrize("before", [[USER], [USER, call(), RESULT]])
def test_p14_the_history_goes_on_behind_any_part(before: Any, part: Any, text: str) -> None:
    role = "assistant" if before == [USER] else "user"
    said = read_conversation(messages=[*before, {"role": role, "content": [part]}]).messages[-1]
    assert said.content == text
    assert read_conversation(messages=[*before, {"role": role, "content": 5}]).messages[-1].content == "5"


IMAGES: dict[str, Json] = {"content": [{"type": "image", "data": "AA==", "mimeType": "image/png"}]}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (IMAGES, absent("image")),
        ([IMAGES, TEXT], absent("image") + "\na"),
        ({**IMAGES, "_meta": {"x": 1}, "isError": False, "structuredContent": None}, absent("image")),
        ({**IMAGES, "structuredContent": {"n": 0}}, absent("image") + '\n{"structuredContent": {"n": 0}}'),
        ({"content": [TEXT], "structuredContent": {"n": 0}}, "a"),
        ({"content": [TEXT], "isError": True, "n": 0}, 'a\n{"isError": true, "n": 0}'),
        ({"content": [None, TEXT]}, "a"),
        ({"content": [{"a": 1}]}, '{"content": [{"a": 1}]}'),
        ({"content": "a"}, '{"content": "a"}'),
        ({"type": ["string", "null"]}, '{"type": ["string", "null"]}'),
    ],
)
def test_p14_an_mcp_servers_result_is_read_like_its_parts(result: Any, text: str) -> None:
    assert result_text(result) == text


def test_p14_what_the_user_writes_needs_a_text() -> None:
    for part in ({"type": "text"}, {"type": "text", "text": None}):
        with pytest.raises(InvalidRequest) as caught:
            read_conversation(messages=[{"role": "user", "content": [part]}])
        assert caught.value.field == "messages[0].content[0].text"
