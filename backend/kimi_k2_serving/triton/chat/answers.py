"""The ensemble's last step. It turns the engine's ids into content, tool calls, finish reason, usage and notices.

Triton calls an ensemble step once per engine response. So the state of a request is kept here from the first response
to the last: one parser for each of its choices. If the last response never comes (the client left, the engine died),
the state is dropped after `IDLE_SECONDS`. Any client may call this step, so a context opens state only once and only if
this server made it (`context`). Open state is bounded in number and in bytes. Over a bound, the answer that has waited
longest is dropped. Only one instance may run: several would mix up the order of a stream.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kimi_k2_serving.core.errors import EngineLost, InvalidValue
from kimi_k2_serving.core.limits import OPEN_CONTEXT_BYTES, OPEN_CONTEXTS, SPENT_CONTEXTS
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Inspector, Report
from kimi_k2_serving.engine.choices import uid_of
from kimi_k2_serving.triton.chat.choice import OUTPUTS, OpenChoice, Outputs, Part, Values, together
from kimi_k2_serving.triton.chat.context import RequestContext, address_of, addressed, foreign
from kimi_k2_serving.triton.chat.seal import Seal

# A live request never pauses this long between two responses: the supervisor ends it, or the engine, earlier
# (`silent_seconds`, `stall_seconds`).
IDLE_SECONDS = 900.0
# The interval at which Triton is asked whether the client of an answer is gone.
ASK_SECONDS = 0.25
# Parsing this many ids takes well under a millisecond.
FEW_IDS = 64


class OpenAnswer:
    """The state of one request, from its first response to its last: one parser for each of its choices."""

    def __init__(self, context: RequestContext, vocabulary: Vocabulary, now: float) -> None:
        self.context = context
        self.touched = now
        # When Triton was last asked whether the client is gone.
        self.asked = now
        self._open = {number: OpenChoice(context, vocabulary) for number in range(context.choices)}
        self._totals = RequestTotals(context)

    @property
    def size(self) -> int:
        """The bytes of state whose size a client determines."""
        return self.context.size + sum(choice.size for choice in self._open.values())

    @property
    def over(self) -> bool:
        """Whether every choice has ended."""
        return not self._open

    def stopped(self, choice: int) -> bool:
        return choice in self._open and self._open[choice].stopped

    def feed(self, part: Part) -> Outputs:
        """The outputs for one part. Raises InvalidValue for a part that no run of this request can have made."""
        outputs = together([{"text_output": ""} if self._beats(part) else self._choice(part).feed(part.ids, None)])
        return outputs if self.context.choices == 1 else [*outputs, (OUTPUTS["index"], [part.choice])]

    def end(self, parts: Sequence[Part], prompt_tokens: int, cached_tokens: int, now: float) -> Ending:
        """The ending of the choices that these parts end. It takes over their state. Raises what `feed` raises."""
        choices = [self._choice(part) for part in parts]
        for part in parts:
            if self._open.pop(part.choice, None) is None:
                raise foreign()
        return Ending(self._totals, choices, parts, prompt_tokens, cached_tokens, now)

    def _beats(self, part: Part) -> bool:
        """Whether the part is a heartbeat. A heartbeat comes with the number of the first choice, even if that has
        ended.
        """
        return part.choice == 0 and part.choice not in self._open and not part.ids

    def _choice(self, part: Part) -> OpenChoice:
        found = self._open.get(part.choice)
        if found is None:
            raise foreign()
        return found


class RequestTotals:
    """The totals over a request's choices. Endings may be made on several threads. Hold `order` from `end` until the
    response is sent, so that the response with the totals is the last one.
    """

    def __init__(self, context: RequestContext) -> None:
        self.context = context
        self.order = threading.Lock()
        self._left = context.choices
        self._completion = 0
        self._cached = 0

    def end(self, parts: Sequence[Part], completion: int, prompt_tokens: int, cached_tokens: int) -> Outputs:
        """The outputs that cover several choices. The totals come only with the request's last response; the prompt
        counts once.
        """
        self._left -= len(parts)
        self._completion += completion
        if parts[0].choice == 0:
            self._cached = cached_tokens
        outputs: Outputs = []
        if self.context.choices > 1:
            outputs.append((OUTPUTS["index"], [part.choice for part in parts]))
        if self._left:
            return outputs
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion,
            "total_tokens": prompt_tokens + self._completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }
        outputs.append((OUTPUTS["usage"], [json.dumps(usage)]))
        if self.context.notices is not None:
            outputs.append((OUTPUTS["notices"], [self.context.notices]))
        return outputs


@dataclass(frozen=True, slots=True)
class Ending:
    """The last response of one choice or of all choices, before it is made. It uses no other answer's state, so any
    thread may make it. Call `values` first, then `inspectors`; then call `outputs` and send the response while holding
    `totals.order`.
    """

    totals: RequestTotals
    choices: Sequence[OpenChoice]
    parts: Sequence[Part]
    prompt_tokens: int
    cached_tokens: int
    arrived: float

    @property
    def light(self) -> bool:
        """Whether making it is about as fast as making a response in the middle of an answer."""
        return self.totals.context.relaxed is None and sum(len(part.ids) for part in self.parts) <= FEW_IDS

    def values(self) -> list[Values]:
        return [choice.feed(part.ids, part.finish) for choice, part in zip(self.choices, self.parts, strict=True)]

    def inspectors(self) -> list[Inspector]:
        """The inspectors, one for each choice; none if a grammar enforced every schema completely."""
        pairs = zip(self.choices, self.parts, strict=True)
        return [found for choice, part in pairs if (found := choice.inspector(part.finish or ""))]

    def outputs(self, values: Sequence[Values]) -> Outputs:
        completion = sum(choice.completion_tokens for choice in self.choices)
        common = self.totals.end(self.parts, completion, self.prompt_tokens, self.cached_tokens)
        return [*together(values), *common]


def reported(values: Values, report: Report) -> Values:
    return {**values, "enforcement": json.dumps(report.document(), ensure_ascii=False)}


class Streams:
    """All answers in flight. Any thread may call a method; the parts of one answer must come in order. It calls
    `abort(uid)` to end a run in the engine, and `inspecting()` when it opens an answer that must be inspected at its
    end.
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
        self._lock = threading.RLock()
        # By the first line of the context; the least recently used comes first.
        self._streams: OrderedDict[str, OpenAnswer] = OrderedDict()
        self._size = 0
        # The uids that opened state most recently, oldest first; the values are not used.
        self._spent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, line: str) -> bool:
        return line in self._streams

    def feed(self, context: str, parts: Sequence[Part], *, prompt_tokens: int, cached_tokens: int) -> Outputs | Ending:
        """`parts`: those of one response; either all are endings, or it is a single part that is no ending. Raises
        InvalidValue for a context that this server did not make or that has opened state before, EngineLost for one
        whose state was dropped. Neither error affects another answer.
        """
        with self._lock:
            return self._feed(context, parts, prompt_tokens, cached_tokens)

    def _feed(self, context: str, parts: Sequence[Part], prompt_tokens: int, cached_tokens: int) -> Outputs | Ending:
        line = address_of(context)
        now = self._clock()
        self._expire(now)
        answer = self._find(line, now) if context == line else self._open(line, context, now)
        before = answer.size
        made: Outputs | Ending
        try:
            if parts[0].finish is None:
                made = answer.feed(parts[0])
            else:
                made = answer.end(parts, prompt_tokens, cached_tokens, now)
        except Exception:
            self._size += answer.size - before
            self.drop(context)
            raise
        self._size += answer.size - before
        if answer.over:
            self._forget(line)
            return made
        self._bound()
        if answer.stopped(parts[0].choice):
            self._abort(self._run_of(answer.context, parts[0].choice))
        return made

    @staticmethod
    def _run_of(context: RequestContext, choice: int) -> str:
        return context.uid if context.choices == 1 else uid_of(context.uid, choice)

    def relayed(self, context: str) -> bool:
        """Whether this first response opened an answer whose further ids may come over the token socket: a stream of
        one answer.
        """
        line = address_of(context)
        answer = self._streams.get(line)
        return context != line and answer is not None and answer.context.stream and answer.context.choices == 1

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
        with self._lock:
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
        """Drop the least recently used answers while a bound is exceeded, but never the only answer left."""
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
