"""core/render.py: the same prompt as the 0905 template, as control tokens and text (rules P1 to P12)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.messages import (
    Conversation,
    Message,
    ResponseFormat,
    Role,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from kimi_k2_serving.core.render import Control, Form, Prompt, Segment, Text, render

KIMI = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>\n"
ANSWER = "<|im_assistant|>assistant<|im_middle|>"
SYSTEM = Message(Role.SYSTEM, "s")


def shown(*messages: Message, tools: tuple[Tool, ...] = (), sort: bool = False) -> str:
    return render(Conversation(messages, tools), sort_tool_keys=sort).text()


def tool(name: str, **rest: str) -> Tool:
    return Tool(name, {"type": "function", "function": {"name": name, **rest}})


def test_p1_control_tokens_are_segments_and_all_else_is_text() -> None:
    assert render(Conversation((Message(Role.SYSTEM, "<|im_end|>"),))) == Prompt(
        (
            Control("<|im_system|>"),
            Text("system"),
            Control("<|im_middle|>"),
            Text("<|im_end|>"),
            Control("<|im_end|>"),
            Control("<|im_assistant|>"),
            Text("assistant"),
            Control("<|im_middle|>"),
        ),
        0,
    )


def test_p2_tools_come_before_the_system_message() -> None:
    block = '<|im_system|>tool_declare<|im_middle|>[{"type":"function","function":{"name":"f"}}]<|im_end|>'
    assert shown(SYSTEM, tools=(tool("f"),)) == f"{block}<|im_system|>system<|im_middle|>s<|im_end|>{ANSWER}"


def test_p3_declarations_are_compact_and_in_the_clients_order() -> None:
    declaration = {
        "type": "function",
        "function": {"name": "f", "description": "é <b>'", "a": [1, {"z": None, "y": 2.0}]},
    }
    text = shown(SYSTEM, tools=(Tool("f", declaration), tool("a")))  # type: ignore[arg-type]
    assert (
        '[{"type":"function","function":{"name":"f","description":"é <b>\'","a":[1,{"z":null,"y":2.0}]}},'
        '{"type":"function","function":{"name":"a"}}]' in text
    )


def test_p3_keys_are_sorted_at_every_level_where_the_checkpoint_sorts() -> None:
    declaration = {"type": "function", "function": {"name": "f", "a": [{"z": 1, "y": 2}]}}
    text = shown(SYSTEM, tools=(Tool("f", declaration), tool("a")), sort=True)  # type: ignore[arg-type]
    assert (
        '[{"function":{"a":[{"y":2,"z":1}],"name":"f"},"type":"function"},{"function":{"name":"a"},"type":"function"}]'
        in text
    )


def test_p3_keys_are_not_sorted_unless_asked_for() -> None:
    unsorted = Tool("f", {"type": "function", "function": {"name": "f"}})
    prompt = render(Conversation((SYSTEM,), (unsorted,)))
    assert Text('[{"type":"function","function":{"name":"f"}}]') in prompt.segments


def test_segments_are_values() -> None:
    assert len({Text("a"), Text("a"), Control("a"), Text("b")}) == 3


def test_p4_the_default_system_message_precedes_a_first_message_of_another_role() -> None:
    assert shown(Message(Role.USER, "hi")) == f"{KIMI}<|im_user|>user<|im_middle|>hi<|im_end|>{ANSWER}"
    assert KIMI not in shown(SYSTEM, Message(Role.USER, "hi"))
    assert KIMI in shown(Message(Role.USER, "hi"), SYSTEM)


def test_p4_a_conversation_without_messages_has_none() -> None:
    assert shown() == ANSWER


@pytest.mark.parametrize(
    ("role", "opening"),
    [(Role.SYSTEM, "<|im_system|>"), (Role.USER, "<|im_user|>"), (Role.ASSISTANT, "<|im_assistant|>")],
)
def test_p5_p6_the_header_is_the_role_or_the_name(role: Role, opening: str) -> None:
    assert f"{opening}{role.value}<|im_middle|>x<|im_end|>" in shown(SYSTEM, Message(role, "x"))
    assert f"{opening}Ann<|im_middle|>x<|im_end|>" in shown(SYSTEM, Message(role, "x", "Ann"))


def test_p7_empty_content_is_no_segment() -> None:
    prompt = render(Conversation((SYSTEM, Message(Role.USER))))
    assert Text("") not in prompt.segments
    assert "<|im_user|>user<|im_middle|><|im_end|>" in prompt.text()


def test_p10_empty_arguments_are_no_segment() -> None:
    call = ToolCall("x", "f", "")
    assert Text("") not in render(Conversation((SYSTEM, Message(Role.ASSISTANT, tool_calls=(call,))))).segments


def test_p8_p9_calls_and_their_results() -> None:
    calls = (ToolCall("x", "f", '{"a":1 }'), ToolCall("y", "g", ""))
    text = shown(
        SYSTEM,
        Message(Role.ASSISTANT, "Let me look. ", tool_calls=calls),
        Message(Role.TOOL, "sunny", tool_call_id="y"),
        Message(Role.TOOL, "", "f", tool_call_id="x"),
    )
    assert text.endswith(
        "<|im_assistant|>assistant<|im_middle|>Let me look. <|tool_calls_section_begin|>"
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a":1 }<|tool_call_end|>'
        "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|><|tool_call_end|>"
        "<|tool_calls_section_end|><|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.g:1\nsunny<|im_end|>"
        "<|im_system|>f<|im_middle|>## Return of functions.f:0\n<|im_end|>" + ANSWER
    )


def test_p9_a_result_is_one_text_with_its_heading() -> None:
    calls = Message(Role.ASSISTANT, tool_calls=(ToolCall("x", "f", "{}"),))
    prompt = render(Conversation((SYSTEM, calls, Message(Role.TOOL, "sunny", tool_call_id="x"))))
    assert Text("## Return of functions.f:0\nsunny") in prompt.segments


def test_h1_the_answers_first_call_goes_on_counting() -> None:
    calls = Message(Role.ASSISTANT, tool_calls=(ToolCall("", "f", "{}"), ToolCall("", "f", "{}")))
    assert render(Conversation((SYSTEM, calls))).first_call_index == 2


def test_h6_an_orphan_result_is_refused() -> None:
    with pytest.raises(InvalidValue) as caught:
        render(Conversation((SYSTEM, Message(Role.TOOL, "x", tool_call_id="y"))))
    assert caught.value.field == "messages[1].tool_call_id"


def test_p11_the_prompt_ends_with_the_answers_header_even_after_an_answer() -> None:
    assert shown(SYSTEM, Message(Role.ASSISTANT, "x")).endswith(f"x<|im_end|>{ANSWER}")


def test_p12_choices_do_not_change_the_prompt() -> None:
    tools = (tool("f"), tool("g"))
    plain = render(Conversation((SYSTEM,), tools))
    for choice in (ToolChoice(ToolMode.NONE), ToolChoice(ToolMode.REQUIRED), ToolChoice(ToolMode.NAMED, "g")):
        assert render(Conversation((SYSTEM,), tools, choice, False, ResponseFormat())) == plain


def test_no_two_texts_adjoin() -> None:
    calls = Message(Role.ASSISTANT, "a", "n", (ToolCall("x", "f", "{}"), ToolCall("y", "g", "{}")))
    messages = (Message(Role.USER, "a", "b"), calls, Message(Role.TOOL, "r", "f", tool_call_id="x"))
    segments: tuple[Segment, ...] = render(Conversation(messages, (tool("f"),))).segments
    assert not any(isinstance(a, Text) and isinstance(b, Text) for a, b in pairwise(segments))


def test_p4_a_form_may_lack_the_line_break_and_changes_nothing_else() -> None:
    asked = Conversation((Message(Role.USER, "hi"),))
    with_it, without = Form().prompt(asked).text(), Form(line_break=False).prompt(asked).text()
    assert with_it == render(asked).text()
    assert without == with_it.replace(KIMI, KIMI.removesuffix("\n"))
    given = Conversation((SYSTEM, Message(Role.USER, "hi")))
    assert Form().prompt(given) == Form(line_break=False).prompt(given)
