"""One of a request's answers in the ensemble's last step: turns its ids into content, tool calls and an ending."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.deltas import collect_answer, delta
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.events import Event, Finish, FinishReason, TextDelta
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.enforcer.inspection import Inspector, Relaxed
from kimi_k2_serving.reading.crossing import json_text
from kimi_k2_serving.triton.chat.context import RequestContext
from kimi_k2_serving.triton.signatures import CHAT_OUTPUTS, TensorSpec

OUTPUTS = {tensor.name: tensor for tensor in CHAT_OUTPUTS}
Outputs = list[tuple[TensorSpec, Sequence[Any]]]
# The outputs of one answer, by name.
Values = dict[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one answer that one of the engine's responses has. `finish`: None before the answer's last part."""

    choice: int
    ids: Sequence[int]
    finish: str | None = None


def parts_of(
    ids: Sequence[int], choices: Sequence[int] | None, counts: Sequence[int] | None, finishes: Sequence[str] | None
) -> list[Part]:
    """The parts of a response, from the engine's `output_ids`, `index`, `num_output_tokens` and `finish_reason`; None
    for an output that is absent. Raises InvalidValue if they contradict each other.
    """
    choices = choices or [0]
    finishes = finishes or [""] * len(choices)
    if len(choices) == 1 and len(finishes) == 1:
        return [Part(choices[0], ids, finishes[0] or None)]
    # A response has several answers only if the request does not stream. It is then the only response.
    if not len(choices) == len(counts or ()) == len(finishes) or not all(finishes) or sum(counts or ()) != len(ids):
        raise InvalidValue("not a response of the engine model; call kimi_k2 instead", field="index")
    parts, start = [], 0
    for choice, count, finish in zip(choices, counts or (), finishes, strict=True):
        parts.append(Part(choice, ids[start : start + count], finish))
        start += count
    return parts


class OpenChoice:
    """The state of one answer, from its first part to its last."""

    def __init__(self, context: RequestContext, vocabulary: Vocabulary) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._parser = parser(context, vocabulary)
        self.completion_tokens = 0
        # All output ids, kept only if the answer has to be inspected at its end.
        self._ids = array("i")

    @property
    def size(self) -> int:
        """The bytes of state whose size a client determines."""
        return self._ids.itemsize * len(self._ids)

    @property
    def stopped(self) -> bool:
        return self._parser.stopped

    def feed(self, ids: Sequence[int], finish: str | None) -> Values:
        self.completion_tokens += len(ids)
        if self._context.relaxed is not None:
            self._ids.extend(ids)
        events = self._parser.feed(ids)
        if finish is None:
            return streamed(events)
        events += self._parser.finish(reason(finish))
        return streamed(events) if self._context.stream else whole_answer(events)

    def inspector(self, finish: str) -> Inspector | None:
        """The inspector of the whole answer; None if a grammar enforced every schema completely. Call it after the last
        `feed`, with the same `finish` as there.
        """
        if self._context.relaxed is None:
            return None
        inspector = Inspector(Relaxed.decode(json.loads(self._context.relaxed)))
        again = parser(self._context, self._vocabulary)
        inspector.feed([*again.feed(self._ids), *again.finish(reason(finish))])
        return inspector


def parser(context: RequestContext, vocabulary: Vocabulary) -> ToolCallParser:
    return ToolCallParser(
        vocabulary,
        tools=context.tools,
        first_index=context.first_index,
        parallel=context.parallel,
        stops=context.stops,
    )


def reason(finish: str) -> FinishReason:
    """The finish reason for the engine's `finish`. An abort counts as STOP: only this step aborts, and it does so only
    after a stop string has matched, or when nobody reads the answer: the client is gone, or another answer has failed.
    """
    return FinishReason.LENGTH if finish == "length" else FinishReason.STOP


def streamed(events: Sequence[Event]) -> Values:
    """The deltas of one response. They always include text_output, so that no response is empty."""
    values = {"text_output": "".join(event.text for event in events if isinstance(event, TextDelta))}
    calls = [call for event in events if (part := delta(event)) for call in part.get("tool_calls") or ()]  # type: ignore[union-attr]
    if calls:
        values["tool_calls"] = json_text(calls)
    for event in events:
        if isinstance(event, Finish):
            values["finish_reason"] = event.reason.value
    return values


def whole_answer(events: Sequence[Event]) -> Values:
    answer = collect_answer(events)
    values = {"text_output": answer.content, "finish_reason": answer.finish_reason.value}
    if answer.tool_calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
        values["tool_calls"] = json_text(calls)
    return values


def together(columns: Sequence[Values]) -> Outputs:
    """Outputs with one element for each answer. The element is empty if an answer has no value but others have one."""
    names = dict.fromkeys(name for values in columns for name in values)
    return [(OUTPUTS[name], [values.get(name, "") for values in columns]) for name in names]
