"""Runs the ensemble's first step: one response per request, in no fixed order.

Large requests are read in separate processes (`reading`), small ones on threads here, because a thread that decodes
megabytes would keep the GIL from all others. A request that is read elsewhere, or that waits until its schema is
compiled, occupies no thread. So a compile never delays requests with a cached schema or without one. Inside an ensemble
Triton 24.10 does not tell this step that a client has left. If Triton tells it, the step stops work on the request.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kimi_k2_serving import settings
from kimi_k2_serving.chat.model import ChatModel, bounds
from kimi_k2_serving.chat.prompt import PreparedPrompt, with_constraint
from kimi_k2_serving.core.errors import Cancelled, ServingError
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.engine.build import python
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.reading.desk import Served
from kimi_k2_serving.reading.lane import SMALL_BYTES, ReaderLanes
from kimi_k2_serving.reading.loop import LoopedLanes
from kimi_k2_serving.triton import journal, tensors
from kimi_k2_serving.triton.chat.request import Reading, read_chat_inputs
from kimi_k2_serving.triton.chat.seal import Seal
from kimi_k2_serving.triton.reply import Reply, failed
from kimi_k2_serving.triton.repository import engine_config
from kimi_k2_serving.triton.signatures import ENSEMBLE_INPUTS

# The threads share one GIL for reading and encoding. Four are enough, even while some wait for Triton's process.
THREADS = 4
READER = "kimi_k2_serving.triton.chat.reader"


def load_preprocess(model_directory: str) -> Preprocess:
    """The step for the model that the engine beside it serves, with its workers started. Raises ServingError."""
    journal.begin("kimi_k2_preprocess")
    linux.keep_private()
    shared_memory.make_private(os.getpid())
    seal = Seal.open(settings.runtime_directory(os.getppid(), settings.Settings.read()))
    config = engine_config(model_directory)
    model = ChatModel.load(config)
    try:
        # Loads while the engine starts, which takes longer.
        model.wait()
    except ServingError:
        model.close()
        raise
    served = Served.of(model, config.checkpoint, bounds(config, model.form))
    return Preprocess(model, seal, LoopedLanes(ReaderLanes(READER, served.encode(), python=python())))


class Preprocess:
    """`execute` returns at once. Call `stop` after the last `execute`: requests that still wait get an error. Without
    `lanes`, requests of all sizes are read here.
    """

    def __init__(
        self,
        model: ChatModel,
        seal: Seal,
        lanes: LoopedLanes | None = None,
        *,
        new_uid: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._model = model
        self._seal = seal
        self._lanes = lanes
        self._new_uid = new_uid
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="preprocess")

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._threads.submit(self._take, request, Reply(request))

    def stop(self) -> None:
        if self._lanes is not None:
            self._lanes.close()
        self._model.close()
        self._threads.shutdown()
        self._seal.close()

    def _take(self, request: Any, reply: Reply) -> None:
        try:
            _refuse_cancelled(reply)
            given = tensors.gather_inputs(request, ENSEMBLE_INPUTS)
            if self._lanes is None or given.size <= SMALL_BYTES:
                self._constrain(read_chat_inputs(given, self._model), reply)
                return
            read = self._lanes.ask("chat", given.pieces())
        except Exception as error:
            reply.send(failed(error))
            return
        read.add_done_callback(lambda read: self._go_on(lambda: self._was_read(read, reply)))

    def _was_read(self, read: Future[memoryview], reply: Reply) -> None:
        try:
            data = read.result()
            _refuse_cancelled(reply)
            self._constrain(Reading.decode(data), reply)
        except Exception as error:
            reply.send(failed(error))

    def _constrain(self, reading: Reading, reply: Reply) -> None:
        constraint = self._model.enforcer.ask_job(reading.job) if reading.job else None
        if constraint is None or constraint.done():
            self._finish(reading, constraint, reply, waited=False)
        else:
            constraint.add_done_callback(
                lambda constraint: self._go_on(lambda: self._finish(reading, constraint, reply, waited=True))
            )

    def _go_on(self, work: Callable[[], None]) -> None:
        try:
            self._threads.submit(work)
        except RuntimeError:
            # The step is stopping, and its threads have ended.
            work()

    def _finish(self, reading: Reading, constraint: Future[Constraint] | None, reply: Reply, *, waited: bool) -> None:
        """Send the response. Never raises: a thread pool's task would lose the exception."""
        try:
            if waited:
                _refuse_cancelled(reply)
            prompt = reading.prompt if constraint is None else _constrained(reading, constraint.result())
            response = tensors.response(reading.outputs(prompt, self._new_uid(), self._seal, time.monotonic()))
        except Exception as error:
            response = failed(error)
        reply.send(response)


def _constrained(reading: Reading, constraint: Constraint) -> PreparedPrompt:
    """The prompt with its constraint. The tools are decoded again only if the constraint is relaxed, for the report."""
    conversation = jobs.decode_job(reading.job)[0] if constraint.relaxed else Conversation(())
    return with_constraint(reading.prompt, constraint, conversation)


def _refuse_cancelled(reply: Reply) -> None:
    if reply.cancelled():
        raise Cancelled("cancelled by the client")
