"""The parts that all routes share: the model, the engine, API keys, admission and metrics."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.notices import MOST_NOTICES
from kimi_k2_serving.chat.prompt import PreparedPrompt, with_constraint
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import Overloaded
from kimi_k2_serving.core.events import CallRejected
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.typed_json import as_string
from kimi_k2_serving.frontend import answer
from kimi_k2_serving.frontend.answer import Question, Step
from kimi_k2_serving.frontend.errors import ModelNotFound
from kimi_k2_serving.frontend.hosts import Hosts
from kimi_k2_serving.frontend.keys import Key, Keys
from kimi_k2_serving.frontend.metrics import FrontendMetrics
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.port import EngineClient
from kimi_k2_serving.frontend.readers import SMALL_BYTES, Readers
from kimi_k2_serving.frontend.reading import Read, Reading
from kimi_k2_serving.frontend.response_timer import ResponseTimer
from kimi_k2_serving.frontend.status import EngineWatch, TritonMetrics, unknown
from kimi_k2_serving.grammar import job as jobs

T = TypeVar("T")
# Time for the last errors to be written after the grace period.
CLOSING_SECONDS = 2.0


@dataclass(slots=True)
class Record:
    """One request in the access log and the metrics. Holds no content."""

    request_id: str
    route: str
    method: str
    started: float
    status: int = 0
    key: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    error: str = ""
    # The engine's uids of the answers. The logs of the other processes name the answers by them.
    generations: list[str] = field(default_factory=list)
    # Parts of the request that were left out, without any text of the client; also a header of the response.
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated, admitted request. `body` is its undecoded JSON, or b"" if the method has no body."""

    body: bytes
    parameters: dict[str, str]
    key: Key
    record: Record


def served(model: ChatModel, value: Json) -> str:
    """The requested model name. Raises ModelNotFound if it is not served."""
    name = as_string(value, "model")
    if name not in model.names:
        raise ModelNotFound(f"this server has no such model; use {model.names[0]}", field="model")
    return name


class Named(msgspec.Struct):
    model: object = None


def named_model(body: bytes) -> object:
    """The `model` of a request; None for a body that is not JSON, which is refused where it is read."""
    try:
        return msgspec.json.decode(body, type=Named).model
    except (msgspec.DecodeError, RecursionError):
        return None


def _uid() -> str:
    return uuid.uuid4().hex


@dataclass(slots=True)
class Service:
    model: ChatModel
    engine: EngineClient
    keys: Keys = field(default_factory=Keys)
    policy: Policy = field(default_factory=Policy)
    metrics: FrontendMetrics = field(default_factory=FrontendMetrics)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    new_uid: Callable[[], str] = _uid
    # None: this process reads all bodies.
    readers: Readers | None = None
    # None: the Host header is not checked.
    hosts: Hosts | None = None
    # None: only whether the engine is ready is known, not its load.
    triton: TritonMetrics | None = None
    # The services of the other models under the same Triton, which share everything but the model and its engine.
    others: tuple[Service, ...] = ()
    watch: EngineWatch = field(init=False)
    # Holds the responses that are not completely written.
    timer: ResponseTimer = field(init=False)
    _running: Counter[str] = field(default_factory=Counter)
    # Only two threads, because only tokenization releases the interpreter lock.
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "prepare"))

    def __post_init__(self) -> None:
        self.watch = EngineWatch(self.engine.health, self.triton.load if self.triton else unknown)
        self.timer = ResponseTimer(keep_alive=self.policy.keep_alive, stalled=self.policy.stalled_seconds)

    @contextmanager
    def admitted(self, key: Key) -> Iterator[None]:
        """Count a request as in flight during the block. Raises Overloaded if there are too many, in total or for this
        key.
        """
        if self._running.total() >= self.policy.in_flight:
            raise Overloaded("too many requests in flight; retry in 1 s")
        if key.concurrency is not None:
            # Workers do not communicate, so each allows an equal share, rounded up.
            share = -(-key.concurrency // self.policy.workers)
            if self._running[key.name] >= share:
                raise Overloaded("too many requests in flight for this API key; retry in 1 s")
        self._running[key.name] += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._running[key.name] -= 1
            self.metrics.in_flight.dec()

    def served(self, value: Json) -> str:
        return served(self.model, value)

    @property
    def together(self) -> tuple[Service, ...]:
        return (self, *self.others)

    def of_model(self, name: object) -> Service:
        """The service of that model. For an unknown name it is this one, which then refuses the name."""
        return next((each for each in self.others if name in each.model.names), self)

    async def for_body(self, body: bytes) -> Service:
        """The service of the model that a request's body names."""
        if not self.others or not body:
            return self
        return self.of_model(await self.prepare(lambda: named_model(body)))

    async def prepare(self, work: Callable[[], T]) -> T:
        """Run work of a few milliseconds off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def read(self, reading: Reading, call: Call) -> Read:
        """Decode, read, render and encode the body. A large one is read in another process. Raises the errors of
        `reading`.
        """
        if self.readers is not None and len(call.body) > SMALL_BYTES:
            found = await self.readers.read(reading, call.body)
        else:
            found = await self.prepare(lambda: reading(self, strict_json.loads(call.body, field="body")))
        call.record.notices = tuple(found.origin.left_out[:MOST_NOTICES])
        return found

    async def prompt(self, read: Read) -> PreparedPrompt:
        """The prompt with its constraint. No thread blocks for it, and the wait ends if the client disconnects."""
        (prompt,) = read.prompts
        if not read.job:
            return prompt
        with read.origin.errors():
            constraint = await asyncio.wrap_future(await self.prepare(lambda: self.model.enforcer.ask_job(read.job)))
        if not constraint.relaxed:
            return with_constraint(prompt, constraint, Conversation(()))
        return await self.prepare(lambda: with_constraint(prompt, constraint, jobs.decode_job(read.job)[0]))

    async def steps(self, question: Question, call: Call) -> AsyncIterator[Step]:
        """The steps of the answers. Counts them in the metrics and in the call's record."""
        record = call.record
        question = replace(question, priority=call.key.priority, cache_salt=call.key.cache_salt)
        self.metrics.relaxed_requests.inc(any(prompt.relaxed for prompt in question.prompts))
        latest: dict[int, Step] = {}

        def named() -> str:
            record.generations.append(self.new_uid())
            return record.generations[-1]

        source = answer.steps(self.model, self.engine, question, new_uid=named)
        try:
            async with aclosing(source):  # type: ignore[type-var]
                async for step in source:
                    if record.first_token is None:
                        record.first_token = self.clock() - record.started
                        self.metrics.first_token.observe(record.first_token)
                    latest[step.choice] = step
                    for event in step.events:
                        if isinstance(event, CallRejected):
                            self.metrics.rejected_calls.labels(event.reason.value).inc()
                    if step.report is not None:
                        self.metrics.inspected(step.report)
                    yield step
        finally:
            self._count(question, latest, record)

    def _count(self, question: Question, latest: dict[int, Step], record: Record) -> None:
        usage = question.usage(latest)
        record.prompt_tokens, record.cached_tokens = usage.prompt, usage.cached
        record.completion_tokens = usage.completion
        self.metrics.prompt_tokens.inc(usage.prompt)
        self.metrics.cached_tokens.inc(usage.cached)
        self.metrics.completion_tokens.inc(usage.completion)

    async def close(self) -> None:
        """Close everything after the server has cancelled the remaining requests. Each may send its error first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while len(self.timer):  # noqa: ASYNC110 - runs once in a process
                    await asyncio.sleep(0.01)
        if self.readers is not None:
            await self.readers.close()
        if self.triton is not None:
            await self.triton.close()
        for each in self.together:
            await each.engine.close()
            await asyncio.to_thread(each.model.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
