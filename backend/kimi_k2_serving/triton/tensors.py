"""Reads a request's input tensors for `inputs`, and makes responses from output values."""

from __future__ import annotations

from array import array as array_of
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.limits import TENSOR_ELEMENTS
from kimi_k2_serving.triton.inputs import Given
from kimi_k2_serving.triton.signatures import TensorSpec

DTYPES: dict[str, Any] = {
    "TYPE_STRING": np.object_,
    "TYPE_INT32": np.int32,
    "TYPE_UINT32": np.uint32,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
}


def flatten(tensor: Any) -> Any:
    """The elements as a flat numpy array; None if `tensor` is None or empty."""
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    return values if values.size else None


def inputs_by_name(request: Any) -> dict[str, Any]:
    """The input tensors. Triton's own lookup by name makes a list of all of them each time."""
    return {tensor.name(): tensor for tensor in request.inputs()}


class Arrived:
    """Implements `inputs.Inputs`; converts each tensor when it is needed."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._tensors = inputs_by_name(request)

    @property
    def parameters(self) -> str:
        return str(self._request.parameters() or "{}")

    def first(self, name: str) -> Any:
        values = flatten(self._tensors.get(name))
        if values is None:
            return None
        return values[0] if values.dtype == np.object_ else values[0].item()

    def every(self, name: str) -> list[Any] | None:
        values = flatten(self._tensors.get(name))
        return None if values is None else list(values.tolist())

    def packed_ids(self, name: str) -> array_of[int]:
        """A tensor of 32-bit integers without conversion to a list, which takes 5 ms for 250,000 ids."""
        values = flatten(self._tensors.get(name))
        found = array_of("i")
        if values is not None:
            found.frombytes(values.tobytes())
        return found


def gather_inputs(request: Any, known: Iterable[TensorSpec]) -> Given:
    """Copy all inputs of a request without decoding them. Raises LimitExceeded for a tensor of too many elements."""
    texts: dict[str, bytes] = {}
    rest: dict[str, list[Any]] = {}
    given = inputs_by_name(request)
    for tensor in known:
        if (values := flatten(given.get(tensor.name))) is None:
            continue
        TENSOR_ELEMENTS.check(values.size, field=tensor.name)
        if tensor.data_type == "TYPE_STRING" and tensor.dims == (1,):
            texts[tensor.name] = _bytes(values[0])
        else:
            elements = values.tolist()
            rest[tensor.name] = list(map(_bytes, elements)) if tensor.data_type == "TYPE_STRING" else elements
    return Given(texts, rest, (request.parameters() or "{}").encode())


def _bytes(raw: Any) -> bytes:
    return raw.encode() if isinstance(raw, str) else bytes(raw)


def response(outputs: Sequence[tuple[TensorSpec, Sequence[Any]]]) -> Any:
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(tensor.name, encode_tensor(tensor, values)) for tensor, values in outputs]
    )


def encode_tensor(tensor: TensorSpec, values: Sequence[Any]) -> Any:
    if tensor.data_type == "TYPE_STRING":
        return np.array([each.encode("utf-8") for each in values], dtype=np.object_)
    return np.array(values, dtype=DTYPES[tensor.data_type])


def failure(error: ServingError) -> Any:
    """An error response with Triton's code for the error. A NUL, which may be in a client's key, is escaped: Triton
    would end the text there.
    """
    text = str(error).replace("\0", "\\0")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, triton_code(error)))


def triton_code(error: ServingError) -> Any:
    return getattr(pb_utils.TritonError, error.triton.value)
