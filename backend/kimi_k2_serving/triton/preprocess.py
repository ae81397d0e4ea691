"""The ensemble's first step at work: one response for each request, in no order, on threads of its own.

A request that waits for an unknown schema holds no thread, so whoever brings a known one, or none, waits for nobody.
Inside an ensemble Triton 24.10 does not tell this step that a client has left; where it does, nothing more is done.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kimi_k2_serving import settings
from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import Cancelled, ServingError
from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.triton import chat_request, tensors
from kimi_k2_serving.triton.reply import Reply, failed
from kimi_k2_serving.triton.repository import engine_config
from kimi_k2_serving.triton.seal import Seal

# Reading and encoding take turns at the interpreter; four are enough to wait for Triton's process meanwhile.
THREADS = 4


def load(model_directory: str) -> Preprocess:
    """The step for the model that the engine beside it serves, its worker there. Raises ServingError."""
    linux.keep_private()
    shared_memory.make_private(os.getpid())
    seal = Seal.open(settings.runtime_directory(os.getppid(), settings.Settings.read()))
    model = ChatModel.load(engine_config(model_directory))
    try:
        # Loads beside the engine, which takes longer.
        model.wait()
    except ServingError:
        model.close()
        raise
    return Preprocess(model, seal)


class Preprocess:
    """`execute` returns at once. `stop` after the last `execute`: whoever still waits is told so."""

    def __init__(self, model: ChatModel, seal: Seal, *, new_uid: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._model = model
        self._seal = seal
        self._new_uid = new_uid
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="preprocess")

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._threads.submit(self._read, request, Reply(request))

    def stop(self) -> None:
        self._model.close()
        self._threads.shutdown()
        self._seal.close()

    def _read(self, request: Any, reply: Reply) -> None:
        try:
            _refuse_cancelled(reply)
            reading = chat_request.read(request, self._model)
            constraint = reading.draft.constraint
        except Exception as error:
            reply.send(failed(error))
            return
        if constraint.done():
            self._finish(reading, reply, waited=False)
        else:
            constraint.add_done_callback(lambda _: self._go_on(reading, reply))

    def _go_on(self, reading: chat_request.Reading, reply: Reply) -> None:
        try:
            self._threads.submit(self._finish, reading, reply, waited=True)
        except RuntimeError:
            # The threads are gone: the step ends.
            self._finish(reading, reply, waited=True)

    def _finish(self, reading: chat_request.Reading, reply: Reply, *, waited: bool) -> None:
        """Never raises: nobody looks at what becomes of it."""
        try:
            if waited:
                _refuse_cancelled(reply)
            response = tensors.response(reading.outputs(self._new_uid(), self._seal, time.monotonic()))
        except Exception as error:
            response = failed(error)
        reply.send(response)


def _refuse_cancelled(reply: Reply) -> None:
    if reply.cancelled():
        raise Cancelled("cancelled by the client")
