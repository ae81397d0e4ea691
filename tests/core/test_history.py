"""core/history.py: every call gets the id that K2 would have written (rules H1 to H8)."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.history import History, normalise
from kimi_k2_serving.core.messages import Message, Role, ToolCall

USER = Message(Role.USER, "hi")


def calls(*pairs: tuple[str, str]) -> Message:
    """An assistant message with a call per (client's id, name)."""
    return Message(Role.ASSISTANT, "", tool_calls=tuple(ToolCall(i, name, "{}") for i, name in pairs))


def result(identity: str | None, name: str | None = None) -> Message:
    return Message(Role.TOOL, "sunny", name, tool_call_id=identity)


def call_ids(history: History) -> list[str]:
    return [call.id for message in history.messages for call in message.tool_calls]


def result_ids(*messages: Message) -> list[str | None]:
    return [message.tool_call_id for message in normalise(messages).messages if message.role is Role.TOOL]


def test_without_calls_nothing_changes() -> None:
    messages = (Message(Role.SYSTEM, "s"), USER, Message(Role.ASSISTANT, "a", "kimi"))
    assert normalise(messages) == History(messages, 0)


def test_nothing_but_ids_is_rewritten() -> None:
    before = Message(Role.ASSISTANT, "look", "kimi", (ToolCall("call_1", "f", '{"a":1 }'),))
    after = normalise((before, Message(Role.TOOL, "sunny", "f", tool_call_id="call_1"))).messages
    assert after == (
        Message(Role.ASSISTANT, "look", "kimi", (ToolCall("functions.f:0", "f", '{"a":1 }'),)),
        Message(Role.TOOL, "sunny", "f", tool_call_id="functions.f:0"),
    )


def test_h1_calls_are_numbered_over_the_whole_conversation() -> None:
    messages = (calls(("a", "f"), ("b", "g")), result("a"), result("b"), USER, calls(("c", "f")), result("c"))
    history = normalise(messages)
    assert call_ids(history) == ["functions.f:0", "functions.g:1", "functions.f:2"]
    assert history.next_index == 3


@pytest.mark.parametrize(
    "identity", ["", "call_abc123", "functions.f:0", "functions.f:7", "functions_f_0", "f:0", "toolu_01", "<|im_end|>"]
)
def test_h2_the_form_of_the_clients_id_does_not_matter(identity: str) -> None:
    history = normalise((calls((identity, "f")), result(identity)))
    assert call_ids(history) == ["functions.f:0"]
    assert history.messages[1].tool_call_id == "functions.f:0"


def test_h3_results_are_mapped_by_id() -> None:
    assert result_ids(calls(("x", "f"), ("y", "g")), result("x"), result("y")) == ["functions.f:0", "functions.g:1"]


def test_h3_an_id_used_twice_in_one_message_is_answered_in_order() -> None:
    messages = (calls(("x", "f"), ("x", "g"), ("x", "f")), result("x"), result("x"), result("x"))
    assert result_ids(*messages) == ["functions.f:0", "functions.g:1", "functions.f:2"]


def test_h3_an_id_used_again_in_a_later_message_means_the_later_call() -> None:
    assert result_ids(calls(("0", "f")), result("0"), calls(("0", "f")), result("0")) == [
        "functions.f:0",
        "functions.f:1",
    ]


def test_h3_a_later_use_hides_an_earlier_call_without_a_result() -> None:
    messages = (calls(("0", "f")), calls(("0", "g")), result("0"))
    assert result_ids(*messages) == ["functions.g:1"]
    with pytest.raises(InvalidValue):
        normalise((*messages, result("0")))


def test_h3_an_id_reaches_a_call_before_the_last_message_with_calls() -> None:
    assert result_ids(calls(("a", "f")), USER, calls(("b", "g")), result("b"), result("a")) == [
        "functions.g:1",
        "functions.f:0",
    ]


@pytest.mark.parametrize("absent", [None, ""])
def test_h4_results_without_ids_are_mapped_by_position(absent: str | None) -> None:
    assert result_ids(calls(("x", "f"), ("y", "g")), result(absent), result(absent)) == [
        "functions.f:0",
        "functions.g:1",
    ]


def test_h4_the_name_of_a_result_without_an_id_is_looked_at_first() -> None:
    messages = (calls(("", "f"), ("", "g"), ("", "g")), result(None, "g"), result(None, "other"), result(None, "g"))
    assert result_ids(*messages) == ["functions.g:1", "functions.f:0", "functions.g:2"]


def test_h4_results_with_and_without_ids_share_the_calls() -> None:
    messages = (calls(("x", "f"), ("x", "g"), ("z", "h")), result(None), result("x"), result(None))
    assert result_ids(*messages) == ["functions.f:0", "functions.g:1", "functions.h:2"]


def test_h4_other_messages_may_stand_between_a_call_and_its_result() -> None:
    thinking = Message(Role.ASSISTANT, "One moment.")
    assert result_ids(calls(("", "f"), ("", "g")), USER, result(None), thinking, result(None)) == [
        "functions.f:0",
        "functions.g:1",
    ]


def test_h4_position_is_within_the_last_message_with_calls() -> None:
    assert result_ids(calls(("a", "f")), calls(("b", "g")), result(None)) == ["functions.g:1"]


def test_h5_results_out_of_order_keep_their_place() -> None:
    history = normalise((calls(("x", "f"), ("y", "g")), result("y"), result("x")))
    assert [message.tool_call_id for message in history.messages[1:]] == ["functions.g:1", "functions.f:0"]


@pytest.mark.parametrize(
    "messages",
    [
        (USER, result("x")),
        (USER, result(None)),
        (calls(("x", "f")), result("y")),
        (calls(("x", "f")), result("functions.f:0")),
        (calls(("x", "f")), result("x"), result("x")),
        (calls(("x", "f")), result("x"), result(None)),
        (calls(("x", "f")), result(None), result("x")),
        (calls(("", "f")), result(None), result(None)),
        (calls(("x", "f"), ("y", "g")), calls(("z", "h")), result("z"), result(None)),
        (result("x"), calls(("x", "f"))),
    ],
)
def test_h6_a_result_that_answers_no_open_call_is_refused(messages: tuple[Message, ...]) -> None:
    position = max(i for i, message in enumerate(messages) if message.role is Role.TOOL)
    with pytest.raises(InvalidValue) as caught:
        normalise(messages)
    assert caught.value.field == f"messages[{position}].tool_call_id"


def test_h7_a_call_without_a_result_is_allowed() -> None:
    history = normalise((calls(("x", "f"), ("y", "g")), result("y"), USER))
    assert call_ids(history) == ["functions.f:0", "functions.g:1"]
    assert history.next_index == 2
