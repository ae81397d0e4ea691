"""Ensemble step 1: one chat request in; token ids, sampling parameters and grammar out. A thin adaptor."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.chat_request import ChatModel


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        try:
            self._model = ChatModel.load(Path(args["model_repository"]))
        except ServingError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            return tensors.response(self._model.prepare(request, new_uid=lambda: uuid.uuid4().hex))
        except ServingError as error:
            return tensors.failure(error)
        except Exception as error:
            pb_utils.Logger.log_error(f"preprocess failed: {type(error).__name__}: {error}")
            return tensors.failure(Internal("an internal error; see the server's log"))
