"""Converts events to OpenAI's shapes: a delta per event for streams, or the message of the whole answer.

Promises: merging the deltas of a stream, as clients do, gives the message of the whole answer. A name is sent once, in
the call's first delta, because clients start a new call at every name. Rules A24 and A25 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

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
from kimi_k2_serving.core.messages import Json


@dataclass(frozen=True, slots=True)
class AnswerCall:
    """One emitted call. `arguments` is JSON text; if `complete` is false, it is not a whole JSON object."""

    id: str
    name: str
    arguments: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `stop` is the stop string that matched, if any; `rejected` says why calls were rejected."""

    content: str
    tool_calls: tuple[AnswerCall, ...]
    finish_reason: FinishReason
    stop: str | None = None
    rejected: tuple[Rejection, ...] = ()


def delta(event: Event) -> dict[str, Json] | None:
    """`choices[0].delta` of an event. None for a call's end, a rejection and the finish: OpenAI has none for them."""
    match event:
        case TextDelta(text):
            return {"content": text}
        case ToolCallStart(index, id_, name):
            function: dict[str, Json] = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id_, "type": "function", "function": function}]}
        case ArgumentsDelta(index, fragment):
            return {"tool_calls": [{"index": index, "function": {"arguments": fragment}}]}
        case ToolCallEnd() | CallRejected() | Finish():
            return None
    assert_never(event)


def collect_answer(events: Iterable[Event]) -> Answer:
    """Collect a finished stream into the whole answer. Raises ValueError if `events` has no Finish."""
    content: list[str] = []
    calls: list[AnswerCall] = []
    rejected: list[Rejection] = []
    id_ = name = ""
    arguments: list[str] = []
    for event in events:
        match event:
            case TextDelta(text):
                content.append(text)
            case ToolCallStart(_, id_, name):
                arguments = []
            case ArgumentsDelta(_, fragment):
                arguments.append(fragment)
            case ToolCallEnd(_, complete):
                calls.append(AnswerCall(id_, name, "".join(arguments), complete))
            case CallRejected(reason):
                rejected.append(reason)
            case Finish(finish_reason, stop):
                return Answer("".join(content), tuple(calls), finish_reason, stop, tuple(rejected))
            case _:
                assert_never(event)
    raise ValueError("events end without Finish")


def message(answer: Answer) -> dict[str, Json]:
    """`choices[0].message`: content is null if there are only calls; `tool_calls` is absent if there are none."""
    calls: list[Json] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answer.tool_calls
    ]
    if not calls:
        return {"role": "assistant", "content": answer.content}
    return {"role": "assistant", "content": answer.content or None, "tool_calls": calls}
