"""SGLang in a process of its own, kept alive: `SupervisedEngine` implements the engine port over `wire`.

When a process of the engine ends or its work stalls, all of them are killed, every generation in flight raises
EngineLost once, new ones raise EngineUnavailable with a time to retry, and the host is started again with back-off;
`CRASHES` deaths within `CRASH_WINDOW` seconds end that.
All state belongs to one event loop. Nothing here imports SGLang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable, Internal, InvalidValue, Overloaded
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.port import (
    Chunk,
    End,
    EndReason,
    EngineInfo,
    EngineState,
    Generation,
    Load,
    TokenLogprob,
    Usage,
    merged,
)
from kimi_k2_serving.engine.process import HostProcess
from kimi_k2_serving.engine.progress import Progress

logger = logging.getLogger(__name__)

CRASHES = 5
CRASH_WINDOW = 600.0
BACKOFF_SECONDS = (0.1, 1.0, 5.0, 15.0)
# How often the engine is asked whether it moves.
WATCH_SECONDS = 0.25

Spawn = Callable[[], Awaitable[HostProcess]]
Answer = wire.Output | wire.Failed | None


class SupervisedEngine:
    """`spawn` makes a host process; `start_timeout` is in seconds, per start; `stall_seconds` without
    movement while something is in flight are a death. `steps_on_cpu`: the scheduler's CPU time is movement.
    """

    def __init__(
        self,
        spawn: Spawn,
        server_args: Mapping[str, Any],
        *,
        start_timeout: float,
        stall_seconds: float,
        steps_on_cpu: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spawn = spawn
        self._server_args = dict(server_args)
        self._start_timeout = start_timeout
        self._stall_seconds = stall_seconds
        self._steps_on_cpu = steps_on_cpu
        self._clock = clock
        self._sleep = sleep
        self._state = EngineState.STOPPED
        self._info: EngineInfo | None = None
        self._host: HostProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._flights: dict[str, asyncio.Queue[Answer]] = {}
        self._deaths: deque[float] = deque(maxlen=CRASHES)
        self._spawned_at = 0.0
        self._progress = Progress(stall_seconds, 0.0)
        self._load = Load()

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def load(self) -> Load:
        return self._load

    def check(self) -> None:
        if self._state is not EngineState.READY:
            raise self._unavailable()

    async def start(self) -> EngineInfo:
        if self._supervisor is not None:
            raise Internal("the engine was started twice")
        self._state = EngineState.STARTING
        try:
            self._info = await self._start_host()
        except (EngineUnavailable, asyncio.CancelledError):
            await self.stop()
            raise
        self._supervisor = asyncio.create_task(self._supervise())
        return self._info

    async def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        self.check()
        assert self._host is not None
        uid = generation.uid
        if uid in self._flights:
            raise Internal("two generations with one uid")
        answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._flights[uid] = answers
        host = self._host
        ended = False
        try:
            host.send(
                wire.Submit(
                    uid=uid,
                    input_ids=list(generation.input_ids),
                    sampling=dict(generation.sampling),
                    stream=generation.stream,
                    top_logprobs=generation.top_logprobs,
                    priority=generation.priority,
                    cache_salt=generation.cache_salt,
                )
            )
            while not ended:
                chunks = [read(await answers.get())]
                # Whatever else has arrived goes out as one chunk: a slow reader costs fewer, larger responses.
                while chunks[-1].end is None and not answers.empty():
                    chunks.append(read(answers.get_nowait()))
                ended = chunks[-1].end is not None
                yield merged(chunks)
        except (EngineLost, InvalidValue, Overloaded, Internal):
            ended = True
            raise
        finally:
            self._flights.pop(uid, None)
            if not ended and host is self._host:
                host.send(wire.Abort(uid))

    def abort(self, uid: str) -> None:
        if uid in self._flights and self._host is not None:
            self._host.send(wire.Abort(uid))

    async def stop(self) -> None:
        self._state = EngineState.STOPPED
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end_host()

    async def _start_host(self) -> EngineInfo:
        self._spawned_at = self._clock()
        spawning = asyncio.ensure_future(self._spawn())
        try:
            host = self._host = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            self._host = await spawning
            raise
        host.send(wire.Start(self._server_args))
        try:
            first = await asyncio.wait_for(host.receive(), self._start_timeout)
        except TimeoutError:
            raise EngineUnavailable(f"the engine did not start within {self._start_timeout:g} s; see its log") from None
        if not isinstance(first, wire.Started):
            raise EngineUnavailable("the engine ended while it was starting; see its log")
        await asyncio.to_thread(host.observe)
        host.watch()
        self._state = EngineState.READY
        return EngineInfo(
            engine=first.engine,
            context_length=first.context_length,
            kv_capacity=first.kv_capacity,
            vocab_size=first.vocab_size,
            start_seconds=self._clock() - self._spawned_at,
        )

    async def _supervise(self) -> None:
        while True:
            assert self._host is not None
            watch = asyncio.create_task(self._watch(self._host))
            try:
                while (message := await self._host.receive()) is not None:
                    self._take(message)
            finally:
                watch.cancel()
            if not await self._restart():
                return

    def _take(self, message: wire.FromHost) -> None:
        match message:
            case wire.Beat():
                self._progress.scheduler(message.published, self._clock(), busy=message.busy)
                self._load = Load(message.running, message.queued, message.kv_usage, self._load.restarts)
            case wire.Output() | wire.Failed():
                self._progress.output(self._clock())
                if message.uid in self._flights:
                    self._flights[message.uid].put_nowait(message)
            case wire.Started():
                pass

    async def _watch(self, host: HostProcess) -> None:
        self._progress = Progress(self._stall_seconds, self._clock())
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            in_flight = bool(self._flights)
            if in_flight and self._steps_on_cpu:
                self._progress.worked(host.cpu_seconds, self._clock())
            if self._progress.stalled(self._clock(), in_flight=in_flight, stopped=in_flight and host.stopped):
                logger.error("the engine has not moved for %g s with work in flight: it is killed", self._stall_seconds)
                host.kill()
                return

    async def _restart(self) -> bool:
        """After a death: end what was in flight, start again. False when that is given up."""
        self._state = EngineState.RESTARTING
        self._spawned_at = self._clock()
        self._load = Load(restarts=self._load.restarts + 1)
        for answers in self._flights.values():
            answers.put_nowait(None)
        attempt = 0
        while True:
            await self._end_host()
            self._deaths.append(self._clock())
            if len(self._deaths) == CRASHES and self._deaths[-1] - self._deaths[0] < CRASH_WINDOW:
                self._state = EngineState.FAILED
                logger.error("the engine died %d times within %g s: it stays down", CRASHES, CRASH_WINDOW)
                return False
            pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
            logger.warning("the engine died; starting it again in %g s", pause)
            await self._sleep(pause)
            try:
                self._info = await self._start_host()
            except EngineUnavailable as error:
                logger.warning("%s", error)
                attempt += 1
                continue
            logger.warning("the engine serves again after %.1f s", self._info.start_seconds)
            return True

    async def _end_host(self) -> None:
        if self._host is not None:
            await self._host.end()
            self._host = None

    def _unavailable(self) -> EngineUnavailable:
        if self._state is EngineState.FAILED:
            return EngineUnavailable("the engine keeps dying and was not started again; see its log", retry_after=600)
        left = self._until_ready()
        return EngineUnavailable(f"the engine is {self._state.value}; retry in {left:.0f} s", retry_after=left)

    def _until_ready(self) -> float:
        """An estimate in seconds, from how long the last start took."""
        usual = self._info.start_seconds if self._info else 60.0
        return max(1.0, usual - (self._clock() - self._spawned_at))


def read(answer: Answer) -> Chunk:
    """A chunk, or the error that the answer stands for; None means that the host is gone."""
    match answer:
        case None:
            raise EngineLost("the engine died while it worked on this request; send it again")
        case wire.Failed(status=status, log=log):
            logger.warning("the engine refused a request: %d %s", status, log)
            raise refusal(status)
        case wire.Output():
            return Chunk(
                ids=tuple(answer.ids),
                text=answer.text,
                usage=Usage(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens),
                end=End(EndReason(answer.end), answer.matched) if answer.end else None,
                logprobs=tuple(
                    TokenLogprob(token_id, value, tuple((other, each) for each, other in top))
                    for value, token_id, top in answer.logprobs
                ),
            )


def refusal(status: int) -> InvalidValue | Overloaded | Internal:
    if status in (429, 503):
        return Overloaded("the engine's queue is full; retry shortly")
    if status < 500:
        return InvalidValue("the engine refused the request: its sampling parameters or grammar do not fit the model")
    return Internal("the engine failed on this request")
