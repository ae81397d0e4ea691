"""Ensemble step 3: the engine's ids in; content, tool calls, finish reason, usage and notices out. A thin adaptor."""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.triton.chat.postprocess import load_postprocess
from kimi_k2_serving.triton.server_watch import end_with_parent


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        end_with_parent(os.getppid())
        try:
            self._step = load_postprocess(args["model_repository"], args["model_name"])
        except ServingError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> None:
        self._step.execute(requests)

    def finalize(self) -> None:
        self._step.stop()
