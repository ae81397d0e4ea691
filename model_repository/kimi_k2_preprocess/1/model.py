"""Ensemble step 1: one chat request in; token ids, sampling parameters and grammar out. A thin adaptor."""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.triton.chat.preprocess import load_preprocess
from kimi_k2_serving.triton.server_watch import end_with_parent


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        end_with_parent(os.getppid())
        try:
            self._step = load_preprocess(args["model_repository"])
        except ServingError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> None:
        self._step.execute(requests)

    def finalize(self) -> None:
        self._step.stop()
