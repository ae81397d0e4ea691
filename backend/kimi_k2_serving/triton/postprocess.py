"""The ensemble's last step at work: each engine response in its order, one response for each. It never raises."""

from __future__ import annotations

import os
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine import shared_memory
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.engine.sglang import python
from kimi_k2_serving.grammar.worker_process import WorkerProcess
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.chat_response import Streams
from kimi_k2_serving.triton.enforcement_metrics import EnforcementMetrics
from kimi_k2_serving.triton.repository import engine_config


class Postprocess:
    """On one thread. `name` is the model's."""

    def __init__(self, model_directory: str, name: str) -> None:
        """Raises ServingError for an engine.yaml or a checkpoint that can't be read."""
        shared_memory.make_private(os.getpid())
        vocabulary = Vocabulary.load(engine_config(model_directory).checkpoint)
        self._aborts = AbortSender(settings.runtime_directory(os.getppid(), settings.Settings.read()))
        self._worker = WorkerProcess(None, python=python())
        self._metrics = EnforcementMetrics(name)
        self._streams = Streams(
            vocabulary,
            abort=self._aborts.abort,
            clock=time.monotonic,
            worker=self._worker,
            metrics=self._metrics,
        )

    def respond(self, request: Any) -> Any:
        context = tensors.value(request, "request_context") or ""
        try:
            if request.is_cancelled():
                # No error: after one, Triton 24.10 counts the ensemble's request as in flight for ever.
                self._streams.drop(context)
                return tensors.response([])
            return tensors.response(
                self._streams.feed(
                    context,
                    tensors.ids(request, "output_ids") or [],
                    finish=tensors.value(request, "finish_reason"),
                    prompt_tokens=tensors.value(request, "num_input_tokens") or 0,
                    cached_tokens=tensors.value(request, "num_cached_tokens") or 0,
                )
            )
        except ServingError as error:
            failure = error
        except Exception as error:
            pb_utils.Logger.log_error(f"postprocess failed: {type(error).__name__}: {error}")
            failure = Internal("an internal error; see the server's log")
        self._streams.drop(context)
        return tensors.failure(failure)

    def stop(self) -> None:
        self._aborts.close()
        self._worker.close()
        self._metrics.close()
