"""The ensemble's first step at work: one response for each request, in no order, on threads of its own.

A request that waits for an unknown schema holds no thread, so whoever brings a known one, or none, waits for nobody.
Inside an ensemble Triton 24.10 does not tell this step that a client has left; where it does, nothing more is done.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import Cancelled, Internal, ServingError
from kimi_k2_serving.engine import shared_memory
from kimi_k2_serving.triton import chat_request, tensors
from kimi_k2_serving.triton.repository import engine_config

# Reading and encoding take turns at the interpreter; four are enough to wait for Triton's process meanwhile.
THREADS = 4


def load(model_directory: str) -> ChatModel:
    """The model that the engine beside this step serves, its worker there. Raises ServingError."""
    shared_memory.make_private(os.getpid())
    model = ChatModel.load(engine_config(model_directory))
    try:
        # Loads beside the engine, which takes longer.
        model.wait()
    except ServingError:
        model.close()
        raise
    return model


class Reply:
    """The one response of a request. Triton's sender is let go with it: one that a garbage collection or the
    interpreter's end finds takes the whole stub down.
    """

    def __init__(self, request: Any) -> None:
        self._sender: Any = request.get_response_sender()

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send(self, response: Any) -> None:
        try:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._sender = None


class Preprocess:
    """`execute` returns at once. `stop` after the last `execute`: whoever still waits is told so."""

    def __init__(self, model: ChatModel, *, new_uid: Callable[[], str] = lambda: uuid.uuid4().hex) -> None:
        self._model = model
        self._new_uid = new_uid
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="preprocess")

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            self._threads.submit(self._read, request, Reply(request))

    def stop(self) -> None:
        self._model.close()
        self._threads.shutdown()

    def _read(self, request: Any, reply: Reply) -> None:
        def work() -> chat_request.Reading:
            _refuse_cancelled(reply)
            return chat_request.read(request, self._model)

        if (reading := _attempt(work, reply)) is None:
            return
        constraint = reading.draft.constraint
        if constraint.done():
            self._finish(reading, reply, waited=False)
        else:
            constraint.add_done_callback(lambda _: self._threads.submit(self._finish, reading, reply, waited=True))

    def _finish(self, reading: chat_request.Reading, reply: Reply, *, waited: bool) -> None:
        def work() -> Any:
            if waited:
                _refuse_cancelled(reply)
            return tensors.response(reading.outputs(self._new_uid()))

        if (response := _attempt(work, reply)) is not None:
            reply.send(response)


def _refuse_cancelled(reply: Reply) -> None:
    if reply.cancelled():
        raise Cancelled("cancelled by the client")


def _attempt(work: Callable[[], Any], reply: Reply) -> Any:
    """What `work` gives; None if it failed and the reply says so."""
    try:
        return work()
    except ServingError as error:
        failure = error
    except Exception as error:
        pb_utils.Logger.log_error(f"preprocess failed: {type(error).__name__}: {error}")
        failure = Internal("an internal error; see the server's log")
    reply.send(tensors.failure(failure))
    return None
