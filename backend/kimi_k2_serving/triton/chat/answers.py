"""The ensemble's last step: the engine's ids in; content, tool calls, finish reason, usage and notices out.

Triton calls an ensemble step once per engine response, so the parser's state is kept here from the first response to
the last. State whose last response never comes (the client left, the engine died) is dropped after `IDLE_SECONDS`. Any
client may call this step, so a context opens state only once and only if this server made it (`context`). Open state is
bounded in number and in bytes; over a bound, the answer that has waited longest is dropped. Only one instance may run:
several would mix up the order of a stream.
"""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.deltas import collect_answer, delta
from kimi_k2_serving.core.errors import EngineLost, InvalidValue
from kimi_k2_serving.core.events import Event, Finish, FinishReason, TextDelta
from kimi_k2_serving.core.limits import OPEN_CONTEXT_BYTES, OPEN_CONTEXTS, SPENT_CONTEXTS
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.enforcer.inspection import Inspector, Relaxed, Report
from kimi_k2_serving.reading.crossing import json_text
from kimi_k2_serving.triton.chat.context import RequestContext, address_of, addressed, foreign
from kimi_k2_serving.triton.chat.seal import Seal
from kimi_k2_serving.triton.signatures import CHAT_OUTPUTS, TensorSpec

OUTPUTS = {tensor.name: tensor for tensor in CHAT_OUTPUTS}
Outputs = list[tuple[TensorSpec, Sequence[Any]]]
# A live request never pauses this long between two responses: the supervisor ends it, or the engine, earlier
# (`silent_seconds`, `stall_seconds`).
IDLE_SECONDS = 900.0
# The interval of asking whether an answer's client is gone.
ASK_SECONDS = 0.25
# So many ids are parsed in well under a millisecond.
FEW_IDS = 64


class OpenAnswer:
    """The state of one answer, from its first response to its last."""

    def __init__(self, context: RequestContext, vocabulary: Vocabulary, now: float) -> None:
        self.context = context
        self.touched = now
        # When Triton was last asked whether the client is gone.
        self.asked = now
        self._vocabulary = vocabulary
        self._parser = parser(context, vocabulary)
        self._completion_tokens = 0
        # All output ids, kept only if the answer has to be inspected at its end.
        self._ids = array("i")

    @property
    def size(self) -> int:
        """The bytes of state whose size a client determines."""
        return self.context.size + self._ids.itemsize * len(self._ids)

    @property
    def stopped(self) -> bool:
        return self._parser.stopped

    def inspector(self, finish: str) -> Inspector | None:
        """The inspector of the whole answer; None if a grammar enforced every schema completely. Call it after the last
        `feed`, with the same `finish`.
        """
        if self.context.relaxed is None:
            return None
        inspector = Inspector(Relaxed.decode(json.loads(self.context.relaxed)))
        again = parser(self.context, self._vocabulary)
        inspector.feed([*again.feed(self._ids), *again.finish(reason(finish))])
        return inspector

    def feed(self, ids: Sequence[int], finish: str | None, prompt_tokens: int, cached_tokens: int) -> Outputs:
        self._completion_tokens += len(ids)
        if self.context.relaxed is not None:
            self._ids.extend(ids)
        events = self._parser.feed(ids)
        if finish is None:
            return streamed(events)
        events += self._parser.finish(reason(finish))
        outputs = streamed(events) if self.context.stream else whole_answer(events)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
        outputs.append((OUTPUTS["usage"], [json.dumps(usage)]))
        if self.context.notices is not None:
            outputs.append((OUTPUTS["notices"], [self.context.notices]))
        return outputs


def parser(context: RequestContext, vocabulary: Vocabulary) -> ToolCallParser:
    return ToolCallParser(
        vocabulary,
        tools=context.tools,
        first_index=context.first_index,
        parallel=context.parallel,
        stops=context.stops,
    )


def reason(finish: str) -> FinishReason:
    """An abort counts as STOP: only this step aborts, and then a stop string has matched or the client is gone."""
    return FinishReason.LENGTH if finish == "length" else FinishReason.STOP


@dataclass(frozen=True, slots=True)
class Ending:
    """An answer's last response, not made yet. It uses no other answer's state, so any thread may make it."""

    stream: OpenAnswer
    ids: Sequence[int]
    finish: str
    prompt_tokens: int
    cached_tokens: int
    arrived: float

    @property
    def light(self) -> bool:
        """Whether making it is about as fast as making a response in the middle of an answer."""
        return self.stream.context.relaxed is None and len(self.ids) <= FEW_IDS

    def outputs(self) -> Outputs:
        return self.stream.feed(self.ids, self.finish, self.prompt_tokens, self.cached_tokens)

    def inspector(self) -> Inspector | None:
        """As `OpenAnswer.inspector`. Call it after `outputs`."""
        return self.stream.inspector(self.finish)


def reported(report: Report) -> Outputs:
    return [(OUTPUTS["enforcement"], [json.dumps(report.document(), ensure_ascii=False)])]


class Streams:
    """All answers in flight; use it on one thread. It calls `abort(uid)` to end a run in the engine, and `inspecting()`
    when it opens an answer that will have to be inspected.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        seal: Seal,
        abort: Callable[[str], None],
        clock: Callable[[], float],
        inspecting: Callable[[], None],
    ) -> None:
        self._vocabulary = vocabulary
        self._seal = seal
        self._abort = abort
        self._clock = clock
        self._inspecting = inspecting
        # By the first line of the context, least recently touched first.
        self._streams: OrderedDict[str, OpenAnswer] = OrderedDict()
        self._size = 0
        # The uids of the responses since the last `taken`, but for last ones.
        self._taken: list[str] = []
        # The last uids that have opened state, oldest first; the values are not used.
        self._spent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def feed(
        self, context: str, ids: Sequence[int], *, finish: str | None, prompt_tokens: int, cached_tokens: int
    ) -> Outputs | Ending:
        """Raises InvalidValue for a context that this server did not make or that has opened state before, EngineLost
        for one whose state was dropped. Neither error affects another answer.
        """
        line = address_of(context)
        now = self._clock()
        self._expire(now)
        stream = self._find(line, now) if context == line else self._open(line, context, now)
        if finish is not None:
            self._forget(line)
            return Ending(stream, ids, finish, prompt_tokens, cached_tokens, now)
        before = stream.size
        try:
            outputs = stream.feed(ids, None, prompt_tokens, cached_tokens)
        except Exception:
            self.drop(context)
            raise
        self._size += stream.size - before
        self._bound()
        self._taken.append(stream.context.uid)
        if stream.stopped:
            self._abort(stream.context.uid)
        return outputs

    def taken(self) -> list[str]:
        """The uids of the engine's responses, but for last ones, that were fed since the last call."""
        found, self._taken = self._taken, []
        return found

    def asks(self, context: str) -> bool:
        """Whether to ask Triton now if this answer's client is gone. Asking takes longer than parsing a token."""
        answer, now = self._streams.get(address_of(context)), self._clock()
        if answer is not None and now - answer.asked < ASK_SECONDS:
            return False
        if answer is not None:
            answer.asked = now
        return True

    def drop(self, context: str) -> None:
        """End the engine's run and drop the state, because the client is gone or its answer failed. Does nothing for a
        context that this server did not make.
        """
        try:
            uid = addressed(context, self._seal)
        except InvalidValue:
            return
        self._forget(address_of(context))
        self._abort(uid)

    def _find(self, line: str, now: float) -> OpenAnswer:
        stream = self._streams.get(line)
        if stream is None:
            # No parser is left for the rest of the answer.
            self._abort(addressed(line, self._seal))
            raise EngineLost("this answer's state was dropped; send the request again")
        stream.touched = now
        self._streams.move_to_end(line)
        return stream

    def _open(self, line: str, text: str, now: float) -> OpenAnswer:
        context = RequestContext.decode(text, self._seal, now)
        if context.uid in self._spent:
            raise foreign()
        self._spent[context.uid] = None
        if len(self._spent) > SPENT_CONTEXTS.value:
            self._spent.popitem(last=False)
        stream = self._streams[line] = OpenAnswer(context, self._vocabulary, now)
        self._size += stream.size
        self._bound()
        if context.relaxed is not None:
            self._inspecting()
        return stream

    def _forget(self, line: str) -> None:
        if (stream := self._streams.pop(line, None)) is not None:
            self._size -= stream.size

    def _bound(self) -> None:
        """Drop the least recently touched answers over a bound, but never the last one."""
        while len(self._streams) > 1 and (
            len(self._streams) > OPEN_CONTEXTS.value or self._size > OPEN_CONTEXT_BYTES.value
        ):
            self._forget(next(iter(self._streams)))

    def _expire(self, now: float) -> None:
        while self._streams:
            line, oldest = next(iter(self._streams.items()))
            if now - oldest.touched < IDLE_SECONDS:
                return
            self._forget(line)


def streamed(events: Sequence[Event]) -> Outputs:
    """One response's deltas. It always has text_output, so that no response is empty."""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    calls = [call for event in events if (part := delta(event)) for call in part.get("tool_calls") or ()]  # type: ignore[union-attr]
    outputs: Outputs = [(OUTPUTS["text_output"], [text])]
    if calls:
        outputs.append((OUTPUTS["tool_calls"], [json_text(calls)]))
    for event in events:
        if isinstance(event, Finish):
            outputs.append((OUTPUTS["finish_reason"], [event.reason.value]))
    return outputs


def whole_answer(events: Sequence[Event]) -> Outputs:
    answer = collect_answer(events)
    outputs: Outputs = [
        (OUTPUTS["text_output"], [answer.content]),
        (OUTPUTS["finish_reason"], [answer.finish_reason.value]),
    ]
    if answer.tool_calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
        outputs.append((OUTPUTS["tool_calls"], [json_text(calls)]))
    return outputs
