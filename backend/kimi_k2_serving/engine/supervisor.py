"""Runs SGLang in its own process and restarts it: `SupervisedEngine` implements the engine port over `wire`.

When a process of the engine ends or its work stalls, all of them are killed, every generation in flight raises
EngineLost once, new ones raise EngineUnavailable with a time to retry, and the host is started again with back-off.
`suspects` decides which requests start and which deaths count. After too many deaths that count, or too many failures
to create a host process, the engine is given up. All state belongs to one event loop. Nothing here imports SGLang.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from kimi_k2_serving.core.errors import (
    EngineLost,
    EngineUnavailable,
    Internal,
    InvalidValue,
    ServingError,
)
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.config import Restart
from kimi_k2_serving.engine.flight import GenerationInFlight, load_of, read_answer
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.nodes.meeting import Nodes, OneNode
from kimi_k2_serving.engine.port import (
    Chunk,
    End,
    EndReason,
    EngineInfo,
    EngineState,
    Generation,
    Load,
    TokenUsage,
    merge_chunks,
)
from kimi_k2_serving.engine.stall import SilenceDetector, StallDetector
from kimi_k2_serving.engine.suspects import CRASHES, WINDOW, Suspects

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.1, 1.0, 5.0, 15.0)
# The interval between two checks whether the engine makes progress.
WATCH_SECONDS = 0.25
# Without an output or a new scheduler state for this long the engine may hang.
MOVING_SECONDS = 5.0
# Creating a host process may fail this often in a row for lack of processes, descriptors or space: four minutes with
# BACKOFF_SECONDS. A shortage passes and is not the engine's fault; deaths are counted separately.
SHORTAGES = 20

Spawn = Callable[[], Awaitable[HostProcess]]


class SupervisedEngine:
    """`spawn` creates a host process. `start_timeout`: seconds per start. `stall_seconds`: the engine is killed when it
    makes no progress for this long with requests in flight. `steps_on_cpu`: the scheduler's CPU time counts as
    progress. `silent_seconds`: a generation without output for this long ends alone, if the engine makes progress and
    its queue is empty. `token_socket`: the path at which the host listens for readers, if any; `stop` removes it.
    `reader_seconds`: a reader that reads nothing for this long is disconnected. `warm_up`: see wire.Start. `nodes`: the
    other machines that the engine spans. `restart`: what follows a death, see Restart.
    """

    def __init__(
        self,
        spawn: Spawn,
        server_args: Mapping[str, Any],
        *,
        start_timeout: float,
        stall_seconds: float,
        silent_seconds: float,
        steps_on_cpu: bool = False,
        token_socket: Path | None = None,
        reader_seconds: float = 30.0,
        warm_up: bool = True,
        nodes: Nodes | None = None,
        restart: Restart = Restart.IN_PLACE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spawn = spawn
        self._start_message = wire.Start(dict(server_args), str(token_socket or ""), reader_seconds, warm_up)
        self._token_socket = token_socket
        self._nodes = nodes or OneNode()
        self._final = restart is Restart.POD
        self._start_timeout = start_timeout
        self._stall_seconds = stall_seconds
        self._steps_on_cpu = steps_on_cpu
        self._clock = clock
        self._sleep = sleep
        self._state = EngineState.STOPPED
        self._info: EngineInfo | None = None
        self._host: HostProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._flights: dict[str, GenerationInFlight] = {}
        self._suspects = Suspects()
        self._spawned_at = 0.0
        # Seconds of service before the engine's last start, and the time at which that start was complete.
        self._service = self._ready_at = 0.0
        self._progress = StallDetector(stall_seconds, 0.0)
        self._silence = SilenceDetector(silent_seconds, 0.0)
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
        except Exception as error:
            logger.exception("the engine's process could not be created")
            await self.stop()
            raise EngineUnavailable("the engine's process could not be created; see the log") from error
        self._supervisor = asyncio.create_task(self._supervise())
        return self._info

    async def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        self.check()
        assert self._host is not None
        uid = generation.uid
        if uid in self._flights:
            raise Internal("two generations with one uid")
        flight = self._flights[uid] = GenerationInFlight()
        self._suspects.arrive(uid, generation, self._served())
        host = None
        ended = served = False
        try:
            self._settle()
            if not await flight.turn:
                yield Chunk((), "", TokenUsage(prompt=len(generation.input_ids)), End(EndReason.ABORT))
                return
            host = self._host
            if flight.answers.empty():
                self._submit(generation)
            while not ended:
                chunks = [read_answer(await flight.answers.get(), generation)]
                # Everything that has arrived goes out as one chunk: a slow reader gets fewer, larger responses.
                while not (chunks[-1].end or chunks[-1].relayed or flight.answers.empty()):
                    chunks.append(read_answer(flight.answers.get_nowait(), generation))
                end = chunks[-1].end
                ended, served = end is not None, end is not None and end.reason is not EndReason.ABORT
                yield merge_chunks(chunks)
        except ServingError:
            ended = True
            raise
        finally:
            self._leave(uid, served=served)
            if not ended and host is not None and host is self._host:
                host.send(wire.Abort(uid))

    def abort(self, uid: str) -> None:
        flight = self._flights.get(uid)
        if flight is not None and not flight.turn.done():
            flight.turn.set_result(False)
        elif flight is not None and self._host is not None:
            self._host.send(wire.Abort(uid))

    async def stop(self) -> None:
        self._state = EngineState.STOPPED
        if self._supervisor is not None:
            self._supervisor.cancel()
            # The task logs its own failure.
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._lose_all()
        await self._end_host()
        await self._nodes.close()
        if self._token_socket is not None:
            self._token_socket.unlink(missing_ok=True)

    def _submit(self, generation: Generation) -> None:
        assert self._host is not None
        if self._suspects.on_trial(generation.uid):
            # Other requests wait for its first output, even if its caller does not stream.
            generation = replace(generation, sampling={**generation.sampling, "stream_interval": 1})
        try:
            self._host.send(wire.submission(generation))
        except wire.Unsendable as error:
            logger.warning("generation %s could not be sent to the engine: %s", generation.uid, error)
            raise InvalidValue("the request, or a number in it, is too large for the engine; make it smaller") from None
        self._silence.begin(generation.uid)

    def _leave(self, uid: str, *, served: bool) -> None:
        self._flights.pop(uid, None)
        self._silence.end(uid)
        self._suspects.leave(uid, self._served(), served=served)
        self._settle()

    def _settle(self) -> None:
        """Start or refuse each request as `suspects` has decided."""
        now = self._clock()
        moving = self._progress.moved_within(MOVING_SECONDS, now)
        for decision in self._suspects.settle(self._served(), moving=moving):
            turn = self._flights[decision.uid].turn
            if turn.done():
                continue
            if decision.refusal is None:
                turn.set_result(True)
            else:
                turn.set_exception(decision.refusal)

    def _served(self) -> float:
        """Total seconds of service: the clock for `suspects`, whose WINDOW may be shorter than one start."""
        return self._service + (self._clock() - self._ready_at if self._state is EngineState.READY else 0.0)

    def _lose_all(self) -> None:
        for flight in self._flights.values():
            flight.lose(self._unavailable())

    async def _start_host(self) -> EngineInfo:
        args = await self._nodes.gather(self._start_message.server_args)
        self._spawned_at = self._clock()
        spawning = asyncio.ensure_future(self._spawn())
        try:
            host = self._host = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            self._host = await spawning
            raise
        host.send(msgspec.structs.replace(self._start_message, server_args=args))
        self._nodes.guard(host.kill)
        try:
            first = await asyncio.wait_for(host.receive(), self._start_timeout)
        except TimeoutError:
            raise EngineUnavailable(f"the engine did not start within {self._start_timeout:g} s; see its log") from None
        if not isinstance(first, wire.Started):
            raise EngineUnavailable("the engine ended while it was starting; see its log")
        await asyncio.to_thread(host.observe)
        host.watch()
        self._progress = StallDetector(self._stall_seconds, self._clock())
        self._ready_at = self._clock()
        self._state = EngineState.READY
        return EngineInfo(
            engine=first.engine,
            context_length=first.context_length,
            prompt_tokens=first.prompt_tokens,
            kv_capacity=first.kv_capacity,
            vocab_size=first.vocab_size,
            start_seconds=self._clock() - self._spawned_at,
            min_p=first.min_p,
        )

    async def _supervise(self) -> None:
        """Supervise the engine. Log a failure and set the state to FAILED: nothing else starts it again."""
        try:
            await self._keep()
        except Exception:
            logger.exception("the engine's supervisor failed: the engine stays down")
            self._state = EngineState.FAILED
            self._lose_all()
            await self._end_host()

    async def _keep(self) -> None:
        while True:
            assert self._host is not None
            watch = asyncio.create_task(self._watch(self._host))
            try:
                while (message := await self._host.receive()) is not None:
                    try:
                        self._take(message)
                    except Exception:
                        logger.exception("a message from the engine could not be handled")
            finally:
                watch.cancel()
            if not await self._restart():
                return

    def _take(self, message: wire.FromHost | wire.Unreadable) -> None:
        match message:
            case wire.Beat():
                self._progress.scheduler(message.published, self._clock(), busy=message.busy)
                self._load = load_of(message, self._load)
                for uid in message.read:
                    self._heard(uid, output=True)
            case wire.Output(uid=uid) | wire.Relayed(uid=uid) | wire.Failed(uid=uid):
                if uid in self._flights:
                    self._flights[uid].answers.put_nowait(message)
                self._heard(uid, output=isinstance(message, wire.Output))
            case wire.Unreadable(uid=uid, problem=problem):
                logger.error("a message from the engine could not be read: %s", problem)
                self._give_up(uid, Internal("the engine's answer could not be read"))
            case wire.Started():
                pass

    def _heard(self, uid: str, *, output: bool) -> None:
        """Note a message from the engine about this generation. `output`: whether it brought output."""
        self._progress.output(self._clock())
        self._silence.output(uid)
        if output and self._suspects.output(uid, self._served()):
            self._settle()

    def _give_up(self, uid: str, error: ServingError) -> None:
        """End one generation with this error, here and in the engine."""
        if uid in self._flights and self._host is not None:
            self._flights[uid].answers.put_nowait(error)
            self._host.send(wire.Abort(uid))

    async def _watch(self, host: HostProcess) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if self._look(host):
                    return
            except Exception:
                logger.exception("checking the engine failed")

    def _look(self, host: HostProcess) -> bool:
        """Check the engine once. Returns True if it had to be killed."""
        now = self._clock()
        in_flight = self._suspects.running > 0
        if in_flight and self._steps_on_cpu:
            self._progress.worked(host.cpu_seconds, now)
        if self._progress.stalled(now, in_flight=in_flight, stopped=in_flight and host.stopped):
            logger.error("no progress for %g s with requests in flight: the engine is killed", self._stall_seconds)
            host.kill()
            return True
        for uid in self._silence.lost(now, queued=self._load.queued):
            logger.error("generation %s got no output for too long while the engine moved: it ends", uid)
            self._give_up(uid, EngineLost("the engine has lost this request; send it again"))
        self._settle()
        return False

    async def _restart(self) -> bool:
        """After a death: fail every request in flight and start the engine again. False if the engine is given up."""
        self._service = self._served()
        self._state = EngineState.RESTARTING
        self._spawned_at = self._clock()
        self._load = Load(restarts=self._load.restarts + 1, totals=self._load.totals)
        killer = self._suspects.died(self._served())
        if killer:
            logger.error("one request crashed the engine: it is refused from now on (fingerprint %s)", killer)
        self._lose_all()
        attempt = shortages = 0
        while True:
            await self._end_host()
            if self._final:
                self._state = EngineState.FAILED
                logger.error("the engine stays down: restart is pod, so its server and all nodes end")
                return False
            if self._suspects.given_up(self._served()) or shortages == SHORTAGES:
                self._state = EngineState.FAILED
                logger.error(
                    "the engine stays down: it died %d times within %g s of service, or could not be created %d times",
                    *(CRASHES, WINDOW, SHORTAGES),
                )
                return False
            pause = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
            logger.warning("the engine is down; starting it again in %g s", pause)
            await self._sleep(pause)
            attempt += 1
            try:
                self._info = await self._start_host()
            except EngineUnavailable as error:
                logger.warning("%s", error)
                self._suspects.died(self._served())
                continue
            except Exception:
                logger.exception("the engine's process could not be created")
                shortages += 1
                continue
            logger.warning("the engine serves again after %.1f s", self._info.start_seconds)
            return True

    async def _end_host(self) -> None:
        self._nodes.halt()
        if self._host is not None:
            await self._host.end()
            self._host = None

    def _unavailable(self) -> EngineUnavailable:
        left = self._until_ready()
        if self._state is EngineState.FAILED and not self._final:
            return EngineUnavailable("the engine keeps dying and was not started again; see its log", retry_after=600)
        what = "down, and its server ends" if self._state is EngineState.FAILED else self._state.value
        return EngineUnavailable(f"the engine is {what}; retry in {left:.0f} s", retry_after=left)

    def _until_ready(self) -> float:
        """An estimate in seconds, from the duration of the last start."""
        usual = self._info.start_seconds if self._info else 60.0
        return max(1.0, usual - (self._clock() - self._spawned_at))
