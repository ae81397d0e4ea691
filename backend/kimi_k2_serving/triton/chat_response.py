"""The ensemble's last step: the engine's ids in, content, tool calls, finish reason, usage and enforcement out.

An ensemble step is called once per engine response, so a parser's state lives here by uid, from the first response to
the last; one that never comes (the client left, the engine died) is dropped after `IDLE_SECONDS`. One instance only:
more would scramble a stream. It never raises: a failure ends the engine's run and is answered as an error.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from kimi_k2_serving.core.deltas import collect, delta
from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.core.events import Event, Finish, FinishReason, TextDelta
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.grammar.inspection import Inspector, Report
from kimi_k2_serving.grammar.worker_process import Worker
from kimi_k2_serving.triton.context import RequestContext
from kimi_k2_serving.triton.enforcement_metrics import EnforcementMetrics
from kimi_k2_serving.triton.table import CHAT_OUTPUTS, Tensor

OUTPUTS = {tensor.name: tensor for tensor in CHAT_OUTPUTS}
Outputs = list[tuple[Tensor, Sequence[Any]]]
# Longer than any pause between two responses of a live request: the engine counts a shorter one as its own death.
IDLE_SECONDS = 900.0
# Answers whose engine step failed are never finished here. Far above what an engine runs at once.
MOST_STREAMS = 4096


class Stream:
    """One answer on its way out."""

    def __init__(self, context: RequestContext, vocabulary: Vocabulary, now: float) -> None:
        self.context = context
        self.touched = now
        self._inspector = Inspector(context.relaxed) if context.relaxed is not None else None
        self._completion_tokens = 0
        self._parser = ToolCallParser(
            vocabulary,
            tools=context.tools,
            first_index=context.first_index,
            parallel=context.parallel,
            stops=context.stops,
        )

    @property
    def stopped(self) -> bool:
        return self._parser.stopped

    def report(self, worker: Worker) -> Report | None:
        """After the last `feed`; None where everything was held. May take CHECK_SECONDS of `inspection`."""
        return None if self._inspector is None else self._inspector.report(worker)

    def _events(self, ids: Sequence[int], finish: str | None) -> list[Event]:
        events = self._parser.feed(ids)
        if finish is not None:
            # An abort that nobody but this step asked for follows a matched stop string.
            events += self._parser.finish(FinishReason.LENGTH if finish == "length" else FinishReason.STOP)
        if self._inspector is not None:
            self._inspector.feed(events)
        return events

    def feed(self, ids: Sequence[int], finish: str | None, prompt_tokens: int, cached_tokens: int) -> Outputs:
        self._completion_tokens += len(ids)
        events = self._events(ids, finish)
        if finish is None:
            return streamed(events)
        outputs = streamed(events) if self.context.stream else whole(events)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
        return [*outputs, (OUTPUTS["usage"], [json.dumps(usage)])]


class Streams:
    """Every answer in flight. `abort` tells the engine that nobody waits for a uid any more; `worker` is started when
    an answer first needs to be inspected, and checks what is large.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        abort: Callable[[str], None],
        clock: Callable[[], float],
        worker: Worker,
        metrics: EnforcementMetrics,
    ) -> None:
        self._vocabulary = vocabulary
        self._abort = abort
        self._clock = clock
        self._worker = worker
        self._metrics = metrics
        # Least recently touched first.
        self._streams: OrderedDict[str, Stream] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def feed(
        self, context: str, ids: Sequence[int], *, finish: str | None, prompt_tokens: int, cached_tokens: int
    ) -> Outputs:
        """Raises EngineLost for a uid whose state is gone."""
        stream = self._stream(context)
        outputs = stream.feed(ids, finish, prompt_tokens, cached_tokens)
        if finish is not None:
            del self._streams[stream.context.uid]
            if (report := stream.report(self._worker)) is not None:
                self._metrics.reported(report)
                document = json.dumps(report.document(), ensure_ascii=False)
                outputs.append((OUTPUTS["enforcement"], [document]))
        elif stream.stopped:
            self._abort(stream.context.uid)
        return outputs

    def drop(self, context: str) -> None:
        """The client is gone, or its answer failed: end the engine's run and forget the state."""
        uid = context.partition("\n")[0]
        self._streams.pop(uid, None)
        self._abort(uid)

    def _stream(self, text: str) -> Stream:
        context = RequestContext.decode(text)
        now = self._clock()
        self._expire(now)
        if isinstance(context, RequestContext):
            stream = self._streams[context.uid] = Stream(context, self._vocabulary, now)
            if context.relaxed is not None:
                self._worker.start()
                self._metrics.began()
            if len(self._streams) > MOST_STREAMS:
                self._streams.popitem(last=False)
            return stream
        if context not in self._streams:
            raise EngineLost("this answer's state was dropped; send the request again")
        stream = self._streams[context]
        stream.touched = now
        self._streams.move_to_end(context)
        return stream

    def _expire(self, now: float) -> None:
        while self._streams:
            uid, oldest = next(iter(self._streams.items()))
            if now - oldest.touched < IDLE_SECONDS:
                return
            del self._streams[uid]


def streamed(events: Sequence[Event]) -> Outputs:
    """One response's deltas; text_output is always there, so that a response is never empty."""
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    calls = [call for event in events if (part := delta(event)) for call in part.get("tool_calls") or ()]  # type: ignore[union-attr]
    outputs: Outputs = [(OUTPUTS["text_output"], [text])]
    if calls:
        outputs.append((OUTPUTS["tool_calls"], [json.dumps(calls, ensure_ascii=False)]))
    for event in events:
        if isinstance(event, Finish):
            outputs.append((OUTPUTS["finish_reason"], [event.reason.value]))
    return outputs


def whole(events: Sequence[Event]) -> Outputs:
    answer = collect(events)
    outputs: Outputs = [
        (OUTPUTS["text_output"], [answer.content]),
        (OUTPUTS["finish_reason"], [answer.finish_reason.value]),
    ]
    if answer.tool_calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
        outputs.append((OUTPUTS["tool_calls"], [json.dumps(calls, ensure_ascii=False)]))
    return outputs
