"""core/parts.py: content of a tool in the history is read or replaced by a sentence, never refused (rule P14)."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidRequest
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.parts import absent, result_text, tool_text
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
    assert tool_text([part], "p") == text


def test_p14_texts_join_without_a_separator_and_other_parts_get_their_own_lines() -> None:
    image = absent("image_url")
    assert tool_text([TEXT, TEXT], "p") == "aa"
    assert tool_text([TEXT, IMAGE, TEXT, IMAGE, IMAGE], "p") == f"a\n{image}\na\n{image}\n{image}"


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
        ([{"a": 1}, TEXT], '[{"a": 1}, {"type": "text", "text": "a"}]'),
        (5, "5"),
        (False, "false"),
    ],
)
def test_p14_a_result_of_any_json_is_read(content: Any, text: str) -> None:
    assert result_text(content, "p") == text
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


@pytest.mark.parametrize("content", [5, {"type": "text"}, [5], [{}], [{"type": "text"}]])
def test_a_value_that_is_not_content_is_refused(content: Any) -> None:
    with pytest.raises(InvalidRequest):
        tool_text(content, "p")
