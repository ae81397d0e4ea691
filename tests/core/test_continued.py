"""core/chat.py and core/render.py: the last message may be the beginning of the answer (rule P21)."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidType, InvalidValue
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.render import render

ASK = {"role": "user", "content": "Count."}
BEGUN = {"role": "assistant", "content": "One, "}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}


def read(*messages: Any, **options: Any) -> Conversation:
    return read_conversation(messages=list(messages), **options)


@pytest.mark.parametrize(
    "conversation",
    [
        read(ASK, {**BEGUN, "partial": True}),
        read(ASK, {**BEGUN, "prefix": True}),
        read(ASK, BEGUN, continue_final_message=True),
        read(ASK, {**BEGUN, "partial": True, "prefix": True}, continue_final_message=True),
    ],
)
def test_p21_the_prompt_ends_inside_the_message_that_is_continued(conversation: Conversation) -> None:
    assert conversation.prefix == "One, "
    text = render(conversation).text()
    assert text.endswith("<|im_user|>user<|im_middle|>Count.<|im_end|><|im_assistant|>assistant<|im_middle|>One, ")


def test_p21_without_the_flag_a_last_answer_is_closed_and_a_new_one_begins() -> None:
    conversation = read(ASK, BEGUN, {**BEGUN, "partial": False})
    assert conversation.prefix == ""
    assert render(conversation).text().endswith("One, <|im_end|><|im_assistant|>assistant<|im_middle|>")


def test_p21_the_name_of_the_message_is_its_header() -> None:
    named = read(ASK, {**BEGUN, "name": "Ada", "partial": True})
    assert render(named).text().endswith("<|im_assistant|>Ada<|im_middle|>One, ")


def test_p21_an_empty_beginning_is_the_header_alone() -> None:
    empty = read(ASK, {"role": "assistant", "content": "", "partial": True})
    assert render(empty) == render(read(ASK))


def test_p21_calls_of_the_answer_are_numbered_as_in_any_other() -> None:
    before = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    done = {"role": "tool", "tool_call_id": "a", "content": "x"}
    assert render(read(before, done, {**BEGUN, "partial": True})).first_call_index == 1


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{**BEGUN, "partial": True}, ASK], "messages[0].partial"),
        ([{**ASK, "prefix": True}, BEGUN], "messages[0].prefix"),
        ([BEGUN, {**ASK, "partial": True}], "messages[1]"),
        ([ASK, {**BEGUN, "tool_calls": [CALL], "partial": True}], "messages[1]"),
    ],
)
def test_p21_only_a_last_assistant_message_without_calls_is_continued(messages: list[Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(*messages)
    assert caught.value.field == field


def test_p21_the_flag_is_true_or_false() -> None:
    with pytest.raises(InvalidType):
        read(ASK, {**BEGUN, "partial": "yes"})


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_p21_a_choice_that_requires_a_call_excludes_a_beginning(choice: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(ASK, {**BEGUN, "partial": True}, tools=[TOOL], tool_choice=choice)
    assert caught.value.field == "tool_choice"
