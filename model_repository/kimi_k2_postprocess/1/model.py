"""Ensemble step 3: the engine's token ids in; content, tool calls, finish reason and usage out. A thin adaptor."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.abort_channel import AbortSender
from kimi_k2_serving.engine.config import load_engine_config
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.chat_response import Streams


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        engine_yaml = Path(args["model_repository"]).parent / "kimi_k2_engine" / "1" / "engine.yaml"
        try:
            vocabulary = Vocabulary.load(load_engine_config(engine_yaml, settings.inherited()).checkpoint)
        except ServingError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._aborts = AbortSender(settings.runtime_directory(os.getppid(), settings.Settings.read()))
        self._streams = Streams(vocabulary, abort=self._aborts.abort, clock=time.monotonic)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
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

    def finalize(self) -> None:
        self._aborts.close()
