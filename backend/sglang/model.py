"""Triton's `sglang` backend for any model that SGLang serves: token ids or text in, token ids and text out, decoupled.

A thin adaptor. docs/tensors.md describes the tensors. The engine runs in its own process, and this stub survives the
engine's death. `instance_group.count` must be 1: one instance serves all requests concurrently.
"""

from __future__ import annotations

from typing import Any

from kimi_k2_serving.triton.engine import backend


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return backend.complete_config(config)

    def initialize(self, args: dict[str, str]) -> None:
        self._service = backend.start(args)

    def execute(self, requests: list[Any]) -> None:
        self._service.execute(requests)

    def is_ready(self) -> bool:
        return self._service.ready

    def finalize(self) -> None:
        self._service.stop()
