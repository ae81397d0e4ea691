"""One request's answers as core events, whatever the dialect: `n` generations, read as they come.

Promises: each choice's steps end with the one that holds its Finish; usage counts every id that was generated;
whichever way the iterator ends (done, closed, cancelled, failed), no generation of it goes on. Knows no HTTP.
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

# Ids that are parsed before others have their turn, by themselves and with log-probabilities, which are written out.
# At most 2 ms in either case; a whole answer of 250,000 ids is one chunk and took 120 ms at once. The choices of one
# request share them.
IDS_AT_ONCE = 256
LOGPROBS_AT_ONCE = 24
# Steps that wait for a slow reader before its generation is left to gRPC's flow control.
WAITING_STEPS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """What is new of one choice. `usage` is that choice's so far; `last` exactly when `events` ends with Finish, and
    then `report` says what the grammar did not hold, None if it held everything.
    """

    choice: int
    events: tuple[Event, ...]
    logprobs: tuple[TokenLogprob, ...]
    usage: TokenUsage
    last: bool
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the engine. Choice i is of prompt i // n and has seed + i % n, modulo 2^63."""

    prompts: tuple[PreparedPrompt, ...]
    n: int = 1
    stream: bool = False
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n

    def usage(self, steps: dict[int, Step]) -> TokenUsage:
        """Prompts once each, as they are billed; completions of all choices. `steps`: the latest of each choice."""
        return TokenUsage(
            prompt=sum(len(prompt.ids) for prompt in self.prompts),
            completion=sum(step.usage.completion for step in steps.values()),
            cached=sum(steps[i * self.n].usage.cached for i in range(len(self.prompts)) if i * self.n in steps),
        )


@dataclass(frozen=True, slots=True)
class Whole:
    """All but `usage` by choice. `events` has what `answers` loses: the order of text and calls."""

    events: tuple[tuple[Event, ...], ...]
    answers: tuple[Answer, ...]
    usage: TokenUsage
    reports: tuple[Report | None, ...]


def steps(
    model: ChatModel, engine: EngineClient, question: Question, *, new_uid: Callable[[], str]
) -> AsyncIterator[Step]:
    """Close the iterator to end the generations. Raises what `EngineClient.generate` does."""
    runs = [_run(question, choice, new_uid()) for choice in range(question.choices)]
    each = [
        _choice(model, engine, question.prompts[choice // question.n], run, choice, len(runs))
        for choice, run in enumerate(runs)
    ]
    return each[0] if len(each) == 1 else _together(each)


async def gather_answer(
    source: AsyncIterator[Step], question: Question, logprobs: Callable[[Step], object] | None = None
) -> Whole:
    """All of it at once, but for log-probabilities: `logprobs` gets them step by step."""
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
    """Events of one answer, neighbouring pieces of text joined: there may be one for each token."""

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
        # Seeds are 63 bits wide; behind the last comes the first.
        sampling["sampling_seed"] = (sampling["sampling_seed"] + choice % question.n) % 2**63
    return Generation(
        uid=uid,
        input_ids=prompt.ids,
        sampling=sampling,
        # Stops that the engine does not know of have to be seen while it still runs. Log-probabilities of a whole
        # answer would be one message of hundreds of megabytes.
        stream=question.stream or question.top_logprobs is not None or (bool(prompt.stops) and "stop" not in sampling),
        top_logprobs=question.top_logprobs,
        priority=question.priority,
        cache_salt=question.cache_salt,
    )


async def _choice(
    model: ChatModel, engine: EngineClient, prompt: PreparedPrompt, run: Generation, choice: int, share: int
) -> AsyncIterator[Step]:
    """One of `share` that are read at the same time."""
    parser = model.parser(prompt)
    inspector = None if prompt.relaxed is None else Inspector(prompt.relaxed)
    usage = TokenUsage(prompt=len(prompt.ids))
    async with aclosing(_sliced(engine.generate(run), share)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            try:
                events = parser.feed(chunk.ids)
            except InvalidValue:
                raise Internal("the engine answered with ids that this vocabulary does not have") from None
            completion = usage.completion + len(chunk.ids)
            usage = replace(usage, completion=completion, cached=max(usage.cached, chunk.usage.cached))
            if chunk.end is None and not parser.stopped:
                if inspector is not None:
                    inspector.feed(events)
                yield Step(choice, tuple(events), chunk.logprobs, usage, last=False)
                continue
            if chunk.end is not None and chunk.end.reason is EndReason.ABORT and not parser.stopped:
                raise EngineLost("the engine gave this request up; send it again")
            length = chunk.end is not None and chunk.end.reason is EndReason.LENGTH
            events += parser.finish(FinishReason.LENGTH if length else FinishReason.STOP)
            report = None
            if inspector is not None:
                inspector.feed(events)
                report = await asyncio.to_thread(inspector.report, model.enforcer.worker)
            yield Step(choice, tuple(events), chunk.logprobs, usage, last=True, report=report)
            return
    raise EngineLost("the answer broke off before its end; send it again")


async def _sliced(chunks: AsyncIterator[Chunk], share: int) -> AsyncIterator[Chunk]:
    """The same chunks, none of which takes long to read, and others' turns between two parts of one."""
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            size = max(1, (LOGPROBS_AT_ONCE if chunk.logprobs else IDS_AT_ONCE) // share)
            for start in range(0, len(chunk.ids) - size, size):
                end = start + size
                yield replace(chunk, ids=chunk.ids[start:end], logprobs=chunk.logprobs[start:end], end=None)
                await asyncio.sleep(0)
            last = max(0, -(-len(chunk.ids) // size) - 1) * size
            yield replace(chunk, ids=chunk.ids[last:], logprobs=chunk.logprobs[last:]) if last else chunk


async def _together(sources: list[AsyncIterator[Step]]) -> AsyncIterator[Step]:
    """Steps of all sources as they come; the first error ends them all."""
    inbox: asyncio.Queue[Step | BaseException | None] = asyncio.Queue(WAITING_STEPS)
    over = False

    async def pump(source: AsyncIterator[Step]) -> None:
        # Also where the source itself is cancelled, as calls are whose channel closes: nobody may wait for it for ever.
        ending: BaseException | None = EngineLost("the answer broke off before its end; send it again")
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
