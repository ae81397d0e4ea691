"""The engine model's service: takes requests and sends decoupled responses, on its own event loop.

Each request is a `RequestInFlight`. Its lifecycle decides which actions to take, and this module takes them: admission,
the engine's run, responses, cancellation, deadlines, heartbeats and the drain at a stop. Worker threads read tensors,
send responses and poll Triton for cancellations; the loop never does. A refusal is sent on Triton's own thread, before
the request is read. It knows nothing of K2's prompts or tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from kimi_k2_serving.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidValue,
    ServingError,
    ShuttingDown,
)
from kimi_k2_serving.core.sampling import Room
from kimi_k2_serving.engine import lifecycle
from kimi_k2_serving.engine.abort_channel import AbortReceiver
from kimi_k2_serving.engine.admission import Admission
from kimi_k2_serving.engine.choices import generate_choices, uids_of
from kimi_k2_serving.engine.given_up import GivenUp
from kimi_k2_serving.engine.lifecycle import Action, Phase
from kimi_k2_serving.engine.pace import Pace
from kimi_k2_serving.engine.port import Chunk, Engine, EngineInfo, EngineState, TokenUsage
from kimi_k2_serving.engine.text import TextEncoder
from kimi_k2_serving.triton import journal, tensors
from kimi_k2_serving.triton.background import Background, Complaints, thread_pool
from kimi_k2_serving.triton.engine.flight import RequestInFlight, ask, due
from kimi_k2_serving.triton.engine.metrics import EngineMetrics, Own
from kimi_k2_serving.triton.engine.outbox import Outbox
from kimi_k2_serving.triton.engine.request import Job, is_probe, read_job
from kimi_k2_serving.triton.engine.response import ResponseWriter
from kimi_k2_serving.triton.engine.serving import Serving
from kimi_k2_serving.triton.reply import end
from kimi_k2_serving.triton.senders import Senders
from kimi_k2_serving.triton.server_watch import TritonServer, stop_with_parent

# Triton's process serves sends and polls from a pool of 32 threads.
SENDERS, READERS = 4, 2
# The intervals of periodic work. Without requests they are a second longer.
POLL_SECONDS, METRICS_SECONDS = 0.05, 0.15
STOP_SECONDS = 20.0
# A receipt is lost in two cases: a response that was sent this much later has got its receipt, because postprocess
# takes all in order; or it has not come within the second time.
OVERTAKEN_SECONDS, LOST_SECONDS = 0.25, 5.0
# How long a stop waits until the last responses are sent.
FLUSH_SECONDS = 2.0
# Triton needs this part of its exit timeout to close connections and unload models after the last request.
UNLOAD_SECONDS = 3.0


class EngineService:
    """`start` blocks until the engine serves, `stop` until the engine has ended. Each is called once."""

    def __init__(
        self,
        engine: Engine,
        encoder: TextEncoder,
        serving: Serving,
        *,
        new_uid: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._engine = engine
        self._encoder = encoder
        self._serving = serving
        self._new_uid = new_uid
        self._admission = Admission(serving.capacity)
        self._aborts = AbortReceiver(serving.runtime, serving.model, self._abort, self._taken)
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(thread_pool(1, "engine-wait"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._complaints = Complaints()
        self._background = Background(self._loop, self._complaints)
        self._pace = Pace(lambda: bool(self._flights) or not self.ready)
        self._given_up = GivenUp(serving.runtime, serving.model, serving.parent if serving.ends_server else None)
        self._readers = thread_pool(READERS, "engine-read")
        self._senders = Senders(SENDERS, "engine-send")
        self._askers = thread_pool(2, "engine-ask")
        self._asking: asyncio.Future[None] | None = None
        self._metrics: EngineMetrics | None = None
        # Every request whose final response Triton does not have yet. The other two have those that have not ended.
        self._flights: set[RequestInFlight] = set()
        self._by_uid: dict[str, RequestInFlight] = {}
        self._by_ticket: dict[int, RequestInFlight] = {}
        self._room = Room(0, 0, 0)
        # When the newest response that postprocess has taken was sent.
        self._taken_until = 0.0
        # Triton seems to be stopping, which may turn out wrong; `stop` was called, or Triton is gone.
        self._draining = self._stopping = False

    @property
    def ready(self) -> bool:
        return self._engine.state is EngineState.READY and self._open

    @property
    def _open(self) -> bool:
        """Whether new requests are accepted. If the loop's thread has died, none can be served."""
        return not self._draining and not self._stopping and self._thread.is_alive()

    def start(self) -> EngineInfo:
        """Start the engine. Raises EngineUnavailable if that fails. After an error everything is stopped already."""
        self._metrics = EngineMetrics(self._serving.model)
        try:
            self._thread.start()
            info = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self.stop()
            raise
        ids = min(info.vocab_size, self._encoder.vocab_size)
        self._room = Room(ids, info.context_length, info.prompt_tokens, info.min_p)
        return info

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            arrived = time.monotonic()
            sender = request.get_response_sender()
            try:
                self._refuse_if_closed()
                ticket = self._admission.arrive()
            except ServingError as error:
                self._refuse(sender, error, arrived)
            else:
                self._loop.call_soon_threadsafe(self._arrive, request, sender, ticket, arrived)

    def stop(self) -> None:
        """End every request with one error, then stop the engine and all threads."""
        self._stopping = True
        try:
            if self._thread.is_alive():
                asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(STOP_SECONDS)
            else:
                self._loop.run_until_complete(asyncio.wait_for(self._stop(), STOP_SECONDS))
        except Exception as error:
            self._complaints.about("stopping", error)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
        self._senders.shutdown()
        for workers in (self._readers, self._askers):
            workers.shutdown(wait=False, cancel_futures=True)
        if not self._thread.is_alive():
            self._loop.close()
        if self._metrics is not None:
            self._metrics.close()

    async def _start(self) -> EngineInfo:
        if self._serving.parent is not None:
            self._background.once(stop_with_parent(self._serving.parent, self._orphaned), "watching for Triton's end")
        info = await self._engine.start()
        await self._aborts.open()
        self._given_up.withdraw()
        forever = functools.partial(self._background.forever, pause=POLL_SECONDS, pace=self._pace)
        forever(self._keep_time, "keeping time")
        self._background.forever(self._publish, "publishing metrics", METRICS_SECONDS, self._pace)
        if self._serving.server is not None:
            forever(functools.partial(self._drain, self._serving.server), "watching for a stop")
        return info

    async def _orphaned(self) -> None:
        """Triton is gone. Stop the engine without any call to Triton: none would return, and some hold the GIL."""
        self._stopping = True
        self._background.cancel()
        await self._engine.stop()

    async def _stop(self) -> None:
        """End all requests. The engine stops and the abort channel closes even if a step fails."""
        try:
            self._end_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    while self._flights:
                        self._forget_finished()
                        await asyncio.sleep(0.01)
            await self._background.close()
        finally:
            try:
                await self._engine.stop()
            finally:
                self._given_up.withdraw()
                self._aborts.close()

    # One request.

    def _refuse(self, sender: Any, error: ServingError, arrived: float) -> None:
        """Send the refusal on Triton's thread: the workers would send it after the waiting responses of streams."""
        assert self._metrics is not None
        end(sender, tensors.failure(error))
        self._metrics.refused(error.code, time.monotonic() - arrived)

    def _arrive(self, request: Any, sender: Any, ticket: int, arrived: float) -> None:
        # Do not let `broken` capture the flight: a sender in a reference cycle crashes the stub (see outbox).
        flight = RequestInFlight(Outbox(sender, self._senders, broken=self._broken), ticket=ticket, arrived=arrived)
        self._flights.add(flight)
        self._pace.wake()
        self._by_ticket[ticket] = flight
        try:
            # A stop may have begun, and ended all requests in flight, since `execute` accepted this one.
            self._refuse_if_closed()
        except ServingError as error:
            self._interrupt(flight, error)
            return
        self._background.once(self._read(flight, request), "reading a request")

    def _refuse_if_closed(self) -> None:
        if not self._open:
            raise ShuttingDown("the server is stopping; send the request to another")
        self._engine.check()

    async def _read(self, flight: RequestInFlight, request: Any) -> None:
        try:
            job = await self._loop.run_in_executor(self._readers, self._read_job, request)
            if flight.live:
                self._join(flight, job)
        except ServingError as error:
            flight.is_probe = is_probe(request, error)
            self._interrupt(flight, error)
        except Exception as error:
            journal.error(f"reading a request failed: {type(error).__name__}: {error}")
            self._interrupt(flight, Internal("an internal error; see the server's log"))
        self._settle()

    def _read_job(self, request: Any) -> Job:
        adapters = self._serving.adapters
        return read_job(request, self._encoder, room=self._room, adapters=adapters, new_uid=self._new_uid)

    def _join(self, flight: RequestInFlight, job: Job) -> None:
        generation = job.generation
        if generation.uid in self._by_uid:
            raise InvalidValue("this uid is already in flight; use another", field="request_context")
        self._by_uid[generation.uid] = flight
        flight.job = job
        flight.outbox.answer = ResponseWriter(job, self._encoder)
        if job.timeout is not None:
            flight.deadline = flight.arrived + job.timeout
        self._beat(flight)
        priority = generation.priority or 0
        self._admission.join(flight.ticket, job.n * len(generation.input_ids), priority, self._loop.time())

    def _settle(self) -> None:
        for decision in self._admission.settle(self._loop.time()):
            flight = self._by_ticket[decision.ticket]
            if decision.refusal is None:
                self._perform(flight, flight.lifecycle.admit())
            else:
                self._interrupt(flight, decision.refusal)

    async def _run(self, flight: RequestInFlight) -> None:
        """Run the generation to its end. StopRun cancels this task."""
        assert flight.job is not None
        try:
            answers = generate_choices(self._engine, flight.job.generation, flight.job.n)
            async with contextlib.aclosing(answers) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self._perform(flight, flight.lifecycle.receive(chunk))
        except ServingError as error:
            self._perform(flight, flight.lifecycle.lose(error))
        except Exception as error:
            journal.error(f"a run failed: {type(error).__name__}: {error}", request=flight.job.generation.uid)
        # This has no effect if the run has ended properly, because the lifecycle then ignores it.
        self._perform(flight, flight.lifecycle.lose(Internal("an internal error; see the server's log")))

    def _interrupt(self, flight: RequestInFlight, error: ServingError) -> None:
        self._perform(flight, flight.lifecycle.interrupt(error))

    def _perform(self, flight: RequestInFlight, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case lifecycle.StartRun():
                    flight.run = self._background.once(self._run(flight), "a run")
                case lifecycle.StopRun():
                    assert flight.run is not None
                    flight.run.cancel()
                case lifecycle.SendChunk(chunk=chunk):
                    flight.put(chunk)
                    self._beat(flight)
                case lifecycle.SendLast(chunk=chunk):
                    flight.outbox.put(chunk)
                    assert chunk.end is not None
                    self._ended(flight, "aborted" if chunk.end.reason.value == "abort" else "completed")
                case lifecycle.SendError(error=error):
                    flight.outbox.fail(error)
                    self._ended(flight, error.code)

    def _ended(self, flight: RequestInFlight, outcome: str) -> None:
        """Free the request's place in admission now; keep the flight until Triton has its final response."""
        if self._metrics is not None:
            self._metrics.ended("probe" if flight.is_probe else outcome)
        if flight.job is not None:
            self._by_uid.pop(flight.job.generation.uid, None)
        if self._by_ticket.pop(flight.ticket, None) is not None:
            self._admission.leave(flight.ticket, self._loop.time())
            self._loop.call_soon(self._settle)

    def _broken(self, outbox: Outbox) -> None:
        """A response could not be made or sent, and the outbox has ended the request. Runs on a worker thread."""
        self._loop.call_soon_threadsafe(self._give_up, outbox)

    def _give_up(self, outbox: Outbox) -> None:
        for flight in [each for each in self._flights if each.outbox is outbox]:
            self._interrupt(flight, Internal("an internal error; see the server's log"))

    def _abort(self, uid: str) -> None:
        """End the run of this uid, a request's or a choice's, for postprocess. Refuse the request if it still waits."""
        flight = self._by_uid.get(uid.partition(" ")[0])
        if flight is None:
            return
        if flight.lifecycle.phase is Phase.RUNNING:
            # `call_soon` lets a run that was just created reach `generate` first: the engine ignores unknown uids.
            for each in uids_of(uid, flight.choices):
                self._loop.call_soon(self._engine.abort, each)
        else:
            self._interrupt(flight, Cancelled("cancelled before it began"))

    def _taken(self, uid: str) -> None:
        """Note that postprocess has taken a response of this uid."""
        if (flight := self._by_uid.get(uid)) is not None:
            self._taken_until = max(self._taken_until, flight.outbox.confirm())

    # All requests.

    async def _keep_time(self) -> None:
        now = self._loop.time()
        lost = max(self._taken_until - OVERTAKEN_SECONDS, now - LOST_SECONDS)
        for flight in [flight for flight in self._flights if flight.live]:
            flight.outbox.hasten(lost)
            try:
                self._check_time(flight, now)
            except Exception as error:
                # One request's failure must not delay the deadlines of the others.
                self._complaints.about("keeping a request's time", error)
        self._settle()
        self._poll(now)
        self._forget_finished()
        if self._engine.state is EngineState.FAILED:
            self._given_up.tell()

    def _check_time(self, flight: RequestInFlight, now: float) -> None:
        if now >= flight.deadline:
            self._interrupt(flight, DeadlineExceeded(f"not done within {flight.deadline - flight.arrived:g} s"))
        elif flight.outbox.stalled_seconds() > self._serving.slow_reader_seconds:
            self._interrupt(flight, Cancelled("a response could not be sent: the client does not read"))
        elif now >= flight.next_heartbeat and flight.outbox.idle and flight.job is not None:
            flight.outbox.put(Chunk((), "", TokenUsage(prompt=len(flight.job.generation.input_ids))))
            self._beat(flight)

    def _beat(self, flight: RequestInFlight) -> None:
        """A response is sent now, so schedule the next heartbeat a whole interval later."""
        if (seconds := flight.heartbeat) is not None:
            flight.next_heartbeat = self._loop.time() + seconds

    def _forget_finished(self) -> None:
        self._flights -= {flight for flight in self._flights if flight.outbox.finished and flight.outbox.idle}

    def _poll(self, now: float) -> None:
        """Poll Triton for cancellations, in every phase of a request: Triton has no callback for them."""
        if (self._asking is None or self._asking.done()) and (chosen := due(self._flights, now)):
            self._asking = self._loop.run_in_executor(self._askers, ask, chosen, self._left)

    def _left(self, flight: RequestInFlight) -> None:
        self._loop.call_soon_threadsafe(self._interrupt, flight, Cancelled("cancelled by the client"))

    async def _publish(self) -> None:
        assert self._metrics is not None
        if self._serving.parent not in (None, os.getppid()):
            return  # Triton is gone, and a call to it would not return: see _orphaned
        own = Own(self._admission.waiting, self._admission.prompt_tokens, self.ready)
        await self._loop.run_in_executor(self._askers, self._metrics.flush, self._engine.load, own)

    async def _drain(self, server: TritonServer) -> None:
        """Wait until Triton stops, then refuse new requests, and end those in flight with one error before Triton would
        cut them off. If Triton answers again, it is not stopping after all: accept requests again.
        """
        await server.stopping(self._pace)
        self._draining = True
        journal.info(f"draining: {len(self._flights)} requests in flight")
        try:
            async with asyncio.timeout(max(server.exit_seconds - UNLOAD_SECONDS, server.exit_seconds / 2)):
                await server.serving()
        except TimeoutError:
            self._end_all()
            await server.serving()
        self._draining = False
        journal.info("no longer draining: Triton answers again")

    def _end_all(self) -> None:
        for flight in list(self._flights):
            self._interrupt(flight, ShuttingDown("the server is stopping; send the request again"))
