"""The part of Triton's `triton_python_backend_utils` that our modules use, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from kimi_k2_serving.triton.signatures import ENGINE_OUTPUTS

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    pass


class TritonError(Exception):
    INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, CANCELLED = range(5)

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors: Any = (), error: TritonError | None = None) -> None:
        self.output_tensors = list(output_tensors)
        self.error = error


class Metric:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def increment(self, value: float) -> None:
        self.value += value


class MetricFamily:
    """Every metric of every family made while `available`, by the family's name."""

    COUNTER, GAUGE = range(2)
    available = True
    made: ClassVar[dict[str, list[Metric]]] = {}

    def __init__(self, name: str, description: str, kind: int) -> None:
        if not self.available:
            raise TritonModelException("metrics not supported")
        self._name = name
        self.made[name] = []

    def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - Triton's name
        metric = Metric(labels)
        self.made[self._name].append(metric)
        return metric


class Logger:
    @staticmethod
    def log_info(message: str) -> None: ...

    @staticmethod
    def log_error(message: str) -> None: ...


class Sender:
    """Keeps what was sent; like Triton's, it refuses to send after the final flag."""

    def __init__(self) -> None:
        self.sent: list[InferenceResponse] = []
        self.finals = 0
        self.cancelled = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.finals, "sent after the final response"
        if response is not None:
            self.sent.append(response)
        self.finals += flags

    def is_cancelled(self) -> bool:
        return self.cancelled


class FailingSender(Sender):
    """The first `failures` sends fail."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def send(self, response: Any = None, flags: int = 0) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("/dev/shm is full")
        super().send(response, flags)


class Request:
    """`inputs` by name: str, bool, int, float or a list of them."""

    def __init__(
        self,
        inputs: dict[str, Any],
        parameters: str = "",
        sender: Sender | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.outputs = outputs
        self._inputs = [Tensor(name, as_array(value)) for name, value in inputs.items()]
        self._parameters = parameters
        self.sender = sender or Sender()

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> list[str]:
        """All of the model's where the client did not say."""
        return [tensor.name for tensor in ENGINE_OUTPUTS] if self.outputs is None else list(self.outputs)

    def get_response_sender(self) -> Sender:
        return self.sender

    def is_cancelled(self) -> bool:
        return self.sender.cancelled


def as_array(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], str):
        return np.array([each.encode() for each in values], dtype=np.object_)
    kind = np.bool_ if values and isinstance(values[0], bool) else None
    if kind is None:
        kind = np.float32 if values and isinstance(values[0], float) else np.int32
    return np.array(values, dtype=kind)


def outputs(response: InferenceResponse) -> dict[str, Any]:
    """What a client would see: strings decoded, one-element tensors as scalars."""
    result = {}
    for tensor in response.output_tensors:
        values = [each.decode() if isinstance(each, bytes) else each for each in tensor.as_numpy().tolist()]
        result[tensor.name()] = values[0] if len(values) == 1 else values
    return result
