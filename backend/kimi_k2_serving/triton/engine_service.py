"""Requests in, decoupled responses out: one task per request on an event loop of its own.

Every request ends with exactly one final response: `Reply` is the only way to send, and it closes itself. Sends,
polls for cancellation and tensor reading happen on worker threads, never on the loop. It knows nothing of K2's
prompts or tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import Cancelled, Internal, InvalidValue, ServingError, ShuttingDown
from kimi_k2_serving.engine.abort_channel import AbortReceiver
from kimi_k2_serving.engine.port import Chunk, Engine, EngineInfo, EngineState
from kimi_k2_serving.engine.text import TextEncoder
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.engine_request import Job, read_job
from kimi_k2_serving.triton.engine_response import Answer

# Triton's parent process serves sends and polls from a pool of 32 threads; four of ours keep the order per request.
WORKERS = 4
# A cancellation reaches the engine within this and one poll per live request.
POLL_SECONDS = 0.05
STOP_SECONDS = 20.0


class Reply:
    """One request's way back; used by one thread at a time. After `finish` nothing is sent."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self.finished = False

    def send(self, response: Any) -> None:
        if not self.finished:
            self._sender.send(response)

    def finish(self, response: Any) -> None:
        if not self.finished:
            self.finished = True
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def cancelled(self) -> bool:
        return not self.finished and bool(self._sender.is_cancelled())


class EngineService:
    """`start` blocks until the engine serves, `stop` until nothing of it is left; both are called once."""

    def __init__(
        self,
        engine: Engine,
        encoder: TextEncoder,
        aborts: AbortReceiver,
        *,
        new_uid: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._engine = engine
        self._encoder = encoder
        self._aborts = aborts
        self._new_uid = new_uid
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="engine-io")
        self._live: dict[str, Reply] = {}
        self._cancelled: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._context_length = 0

    @property
    def ready(self) -> bool:
        return self._engine.state is EngineState.READY

    def start(self) -> EngineInfo:
        """Raises EngineUnavailable if the engine can't be started; then nothing is left to stop."""
        self._thread.start()
        try:
            info = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self.stop()
            raise
        self._context_length = info.context_length
        return info

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._loop.call_soon_threadsafe(self._begin, request, Reply(request.get_response_sender()))

    def stop(self) -> None:
        """End every request with one error, the engine, and every thread."""
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(STOP_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    def _begin(self, request: Any, reply: Reply) -> None:
        task = self._loop.create_task(self._serve(request, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> EngineInfo:
        info = await self._engine.start()
        await self._aborts.open()
        poller = self._loop.create_task(self._poll())
        self._tasks.add(poller)
        return info

    async def _stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engine.stop()
        self._aborts.close()

    async def _serve(self, request: Any, reply: Reply) -> None:
        """One request, from its tensors to its final response."""
        try:
            job = await self._work(self._read, request)
            await self._generate(job, reply)
        except ServingError as error:
            await self._work(reply.finish, tensors.failure(error))
        except asyncio.CancelledError:
            reply.finish(tensors.failure(ShuttingDown("the server is stopping")))
            raise
        except Exception as error:
            pb_utils.Logger.log_error(f"request failed: {type(error).__name__}: {error}")
            await self._work(reply.finish, tensors.failure(Internal("an internal error; see the server's log")))

    def _read(self, request: Any) -> Job:
        return read_job(request, self._encoder, context_length=self._context_length, new_uid=self._new_uid)

    async def _generate(self, job: Job, reply: Reply) -> None:
        uid = job.generation.uid
        if uid in self._live:
            raise InvalidValue("this uid is already in flight", field="request_context")
        self._live[uid] = reply
        answer = Answer(job, self._encoder)
        try:
            async with contextlib.aclosing(self._engine.generate(job.generation)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    if uid in self._cancelled:
                        raise Cancelled("cancelled by the client")
                    await self._work(deliver, answer, chunk, reply)
        finally:
            self._live.pop(uid, None)
            self._cancelled.discard(uid)

    async def _poll(self) -> None:
        """Ask for cancellations: there is no callback. Works in every phase, queueing and prefill included."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._live:
                continue
            for uid in await self._work(cancelled_uids, list(self._live.items())):
                if uid in self._live:
                    self._cancelled.add(uid)
                    self._engine.abort(uid)

    async def _work(self, function: Any, *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._workers, function, *arguments)


def deliver(answer: Answer, chunk: Chunk, reply: Reply) -> None:
    """On a worker thread: at most one response for the chunk."""
    outputs, final = answer.feed(chunk)
    if final:
        reply.finish(tensors.response(outputs))
    elif outputs:
        reply.send(tensors.response(outputs))


def cancelled_uids(live: list[tuple[str, Reply]]) -> list[str]:
    return [uid for uid, reply in live if reply.cancelled()]
