"""OpenAI's shapes of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.deltas import Answer, AnswerCall, collect_answer, delta, message
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Event,
    Finish,
    FinishReason,
    Rejection,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from tests.support import hostile
from tests.support.answers import VOCABULARY, run

EVENTS: list[Event] = [
    TextDelta("a"),
    ToolCallStart(0, "functions.f:3", "f"),
    ArgumentsDelta(0, "{"),
    ArgumentsDelta(0, "}"),
    ToolCallEnd(0, True),
    CallRejected(Rejection.UNDECLARED_NAME),
    TextDelta("b"),
    ToolCallStart(1, "functions.g:4", "g"),
    ToolCallEnd(1, False),
    Finish(FinishReason.TOOL_CALLS, "STOP"),
]


def merge(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge deltas as OpenAI's own clients do: append text, and append a delta's strings to the call at its index."""
    content = ""
    calls: dict[int, dict[str, Any]] = {}
    for part in deltas:
        content += part.get("content", "")
        for piece in part.get("tool_calls", []):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls[piece["index"]] = {
                    "id": piece["id"],
                    "type": piece["type"],
                    "function": dict(piece["function"]),
                }
            else:
                assert set(piece["function"]) == {"arguments"}
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    if not calls:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content or None, "tool_calls": list(calls.values())}


def test_each_event_has_its_delta_or_none() -> None:
    """A24"""
    assert [delta(event) for event in EVENTS[:7]] == [
        {"content": "a"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "functions.f:3",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
        None,
        None,
        {"content": "b"},
    ]
    assert delta(EVENTS[-1]) is None


def test_a_whole_answer_has_all_that_its_events_say() -> None:
    assert collect_answer(EVENTS) == Answer(
        content="ab",
        tool_calls=(
            AnswerCall("functions.f:3", "f", "{}", complete=True),
            AnswerCall("functions.g:4", "g", "", complete=False),
        ),
        finish_reason=FinishReason.TOOL_CALLS,
        stop="STOP",
        rejected=(Rejection.UNDECLARED_NAME,),
    )


def test_content_is_null_only_beside_calls() -> None:
    """A25"""
    assert message(collect_answer([Finish(FinishReason.STOP)])) == {"role": "assistant", "content": ""}
    assert message(collect_answer(EVENTS[1:5] + EVENTS[-1:]))["content"] is None


@pytest.mark.parametrize("events", [[], EVENTS[:-1]])
def test_an_answer_without_an_end_is_no_answer(events: list[Event]) -> None:
    with pytest.raises(ValueError, match="without Finish"):
        collect_answer(events)


@pytest.mark.parametrize("case", hostile.load("answers"), ids=lambda case: case.name)
def test_merged_deltas_are_the_message_of_the_whole_answer(case: hostile.Case) -> None:
    """A25"""
    ids = case.ids_of_bytes()
    streamed = run(case.parser(VOCABULARY), ids, range(1, len(ids)), case.reason)
    deltas = [shown for event in streamed if (shown := delta(event)) is not None]
    assert merge(deltas) == message(collect_answer(run(case.parser(VOCABULARY), ids, (), case.reason)))
