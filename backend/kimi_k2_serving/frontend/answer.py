"""Reads the answers to one request as core events, for every dialect. It reads `n` generations as their chunks arrive.

The last step of each choice contains its Finish. Usage counts every generated id. When the iterator ends in any way
(finished, closed, cancelled or failed), all its generations end with it. This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.core.deltas import Answer, collect_answer
from kimi_k2_serving.core.errors import EngineLost, Internal, InvalidValue
from kimi_k2_serving.core.events import ArgumentsDelta, Event, FinishReason, TextDelta
from kimi_k2_serving.enforcer.inspection import Inspector, Report
from kimi_k2_serving.engine.port import Chunk, EndReason, Generation, TokenLogprob, TokenUsage
from kimi_k2_serving.frontend.port import EngineClient

# The number of ids that are parsed before the event loop serves other requests, without and with log-probabilities,
# which also have to be encoded. Either number takes at most 2 ms. A whole answer of 250,000 ids is one chunk, which
# took 120 ms at once. The choices of one request share these numbers.
IDS_AT_ONCE = 256
LOGPROBS_AT_ONCE = 24
# Steps buffered for a slow client. When the buffer is full, gRPC's flow control slows the generation.
WAITING_STEPS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """New output of one choice. `usage` counts that choice so far. `last` is true exactly if `events` ends with Finish.
    Then `report` says what the grammar did not enforce; it is None if the grammar enforced everything.
    `prompt_logprobs` come first, in steps without anything else.
    """

    choice: int
    events: tuple[Event, ...]
    logprobs: tuple[TokenLogprob, ...]
    usage: TokenUsage
    last: bool
    report: Report | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """The generations of one request. Choice i continues prompt i // n with seed + i % n, modulo 2^63."""

    prompts: tuple[PreparedPrompt, ...]
    n: int = 1
    stream: bool = False
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None
    prompt_logprobs: bool = False

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n

    def usage(self, steps: dict[int, Step]) -> TokenUsage:
        """The usage of all choices. Each prompt counts once, as it is billed; each choice's completion counts. `steps`:
        the latest step of each choice.
        """
        return TokenUsage(
            prompt=sum(len(prompt.ids) for prompt in self.prompts),
            completion=sum(step.usage.completion for step in steps.values()),
            cached=sum(steps[i * self.n].usage.cached for i in range(len(self.prompts)) if i * self.n in steps),
        )


@dataclass(frozen=True, slots=True)
class Whole:
    """Whole answers. All fields except `usage` have one entry per choice. Only `events` keeps the order of text and
    calls.
    """

    events: tuple[tuple[Event, ...], ...]
    answers: tuple[Answer, ...]
    usage: TokenUsage
    reports: tuple[Report | None, ...]


def steps(
    model: ChatModel, engine: EngineClient, question: Question, *, new_uid: Callable[[], str]
) -> AsyncIterator[Step]:
    """Yield the steps of all choices. Closing the iterator ends the generations. Raises the errors of
    `EngineClient.generate`.
    """
    runs = [_run(question, choice, new_uid()) for choice in range(question.choices)]
    each = [
        _choice(model, engine, question.prompts[choice // question.n], run, choice, len(runs))
        for choice, run in enumerate(runs)
    ]
    return each[0] if len(each) == 1 else _together(each)


async def gather_answer(
    source: AsyncIterator[Step], question: Question, logprobs: Callable[[Step], object] | None = None
) -> Whole:
    """Read `source` to its end. Log-probabilities are not collected: `logprobs` gets each step that may have some."""
    gathered = [Gathered() for _ in range(question.choices)]
    latest: dict[int, Step] = {}
    async with aclosing(source):  # type: ignore[type-var]
        async for step in source:
            gathered[step.choice].feed(step.events)
            latest[step.choice] = step
            if logprobs is not None:
                logprobs(step)
    events = tuple(each.events() for each in gathered)
    answers = tuple(map(collect_answer, events))
    reports = tuple(latest[choice].report for choice in range(question.choices))
    return Whole(events, answers, question.usage(latest), reports)


class Gathered:
    """The events of one answer. Adjacent pieces of text are joined, because there may be one for each token."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._pieces: list[str] = []

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            match event, self._events[-1:]:
                case TextDelta(text), [TextDelta()]:
                    self._pieces.append(text)
                case ArgumentsDelta(index, text), [ArgumentsDelta(same)] if index == same:
                    self._pieces.append(text)
                case _:
                    self._join()
                    self._events.append(event)
                    self._pieces = [event.text] if isinstance(event, TextDelta) else []
                    if isinstance(event, ArgumentsDelta):
                        self._pieces = [event.fragment]

    def events(self) -> tuple[Event, ...]:
        self._join()
        return tuple(self._events)

    def _join(self) -> None:
        if len(self._pieces) > 1:
            text = "".join(self._pieces)
            last = self._events[-1]
            if isinstance(last, ArgumentsDelta):
                self._events[-1] = replace(last, fragment=text)
            else:
                self._events[-1] = TextDelta(text)
        self._pieces = []


def _run(question: Question, choice: int, uid: str) -> Generation:
    prompt = question.prompts[choice // question.n]
    sampling = dict(prompt.sampling)
    if "sampling_seed" in sampling:
        # Seeds have 63 bits and wrap around.
        sampling["sampling_seed"] = (sampling["sampling_seed"] + choice % question.n) % 2**63
    return Generation(
        uid=uid,
        input_ids=prompt.ids,
        sampling=sampling,
        # The engine also streams in two other cases. Stop strings that it does not get must be found while it still
        # generates. The log-probabilities of a whole answer would be one message of hundreds of megabytes.
        stream=question.stream or question.top_logprobs is not None or (bool(prompt.stops) and "stop" not in sampling),
        top_logprobs=question.top_logprobs,
        priority=question.priority,
        cache_salt=question.cache_salt,
        prompt_logprobs=question.prompt_logprobs,
    )


async def _choice(
    model: ChatModel, engine: EngineClient, prompt: PreparedPrompt, run: Generation, choice: int, share: int
) -> AsyncIterator[Step]:
    """The steps of one choice. `share` choices are read at the same time."""
    parser = model.parser(prompt)
    inspector = None if prompt.relaxed is None else Inspector(prompt.relaxed)
    usage = TokenUsage(prompt=len(prompt.ids))
    async with aclosing(_sliced(engine.generate(run), share)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            try:
                events = parser.feed(chunk.ids)
            except InvalidValue:
                raise Internal("the engine's vocabulary differs from the frontend's; use one checkpoint") from None
            completion = usage.completion + len(chunk.ids)
            usage = TokenUsage(usage.prompt, completion, max(usage.cached, chunk.usage.cached))
            if chunk.end is None and not parser.stopped:
                if inspector is not None:
                    inspector.feed(events)
                yield Step(choice, tuple(events), chunk.logprobs, usage, False, prompt_logprobs=chunk.prompt_logprobs)
                continue
            if chunk.end is not None and chunk.end.reason is EndReason.ABORT and not parser.stopped:
                raise EngineLost("the engine aborted this request; send it again")
            length = chunk.end is not None and chunk.end.reason is EndReason.LENGTH
            events += parser.finish(FinishReason.LENGTH if length else FinishReason.STOP)
            report = None
            if inspector is not None:
                inspector.feed(events)
                report = await asyncio.to_thread(inspector.report, model.enforcer.worker)
            yield Step(choice, tuple(events), chunk.logprobs, usage, last=True, report=report)
            return
    raise EngineLost("the answer broke off before its end; send the request again")


async def _sliced(chunks: AsyncIterator[Chunk], share: int) -> AsyncIterator[Chunk]:
    """Cut `chunks` so that each takes little time to read. Between two parts the event loop serves other requests."""
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            size = max(1, LOGPROBS_AT_ONCE // share)
            for start in range(0, len(chunk.prompt_logprobs), size):
                part = chunk.prompt_logprobs[start : start + size]
                yield Chunk((), "", replace(chunk.usage, completion=0), prompt_logprobs=part)
                await asyncio.sleep(0)
            chunk = replace(chunk, prompt_logprobs=()) if chunk.prompt_logprobs else chunk
            size = max(1, (LOGPROBS_AT_ONCE if chunk.logprobs else IDS_AT_ONCE) // share)
            for start in range(0, len(chunk.ids) - size, size):
                end = start + size
                yield replace(chunk, ids=chunk.ids[start:end], logprobs=chunk.logprobs[start:end], end=None)
                await asyncio.sleep(0)
            last = max(0, -(-len(chunk.ids) // size) - 1) * size
            yield replace(chunk, ids=chunk.ids[last:], logprobs=chunk.logprobs[last:]) if last else chunk


async def _together(sources: list[AsyncIterator[Step]]) -> AsyncIterator[Step]:
    """Yield the steps of all sources as they arrive. The first error ends all sources."""
    inbox: asyncio.Queue[Step | BaseException | None] = asyncio.Queue(WAITING_STEPS)
    over = False

    async def pump(source: AsyncIterator[Step]) -> None:
        # This error is also reported if the source itself is cancelled, for example by a channel that closes. Otherwise
        # the reader would wait for ever.
        ending: BaseException | None = EngineLost("the answer broke off before its end; send the request again")
        try:
            async with aclosing(source):  # type: ignore[type-var]
                async for step in source:
                    await inbox.put(step)
            ending = None
        except Exception as error:
            ending = error
        finally:
            if not over:
                await inbox.put(ending)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            match await inbox.get():
                case None:
                    left -= 1
                case BaseException() as error:
                    raise error
                case step:
                    yield step
    finally:
        over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
