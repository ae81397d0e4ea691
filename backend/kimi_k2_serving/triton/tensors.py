"""Tensors in and out: one request's inputs by name, checked; one response's outputs.

An input that is absent or empty reads as None. Shapes are those of `table`; dtypes are checked by Triton, ranges by
core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, ServingError, UnknownField
from kimi_k2_serving.triton.table import SAMPLING, Tensor

DTYPES: dict[str, Any] = {
    "TYPE_STRING": np.object_,
    "TYPE_INT32": np.int32,
    "TYPE_UINT32": np.uint32,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
}


def array(request: Any, name: str) -> Any:
    """The input's elements as a flat numpy array, or None."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    return values if values.size else None


def value(request: Any, name: str) -> Any:
    """The first element as a Python str, int, float or bool, or None."""
    values = array(request, name)
    if values is None:
        return None
    return text_of(values[0], name) if values.dtype == np.object_ else values[0].item()


def flag(request: Any, name: str, default: bool) -> bool:
    given = value(request, name)
    return default if given is None else bool(given)


def strings(request: Any, name: str) -> list[str] | None:
    values = array(request, name)
    return None if values is None else [text_of(each, name) for each in values]


def ids(request: Any, name: str) -> list[int] | None:
    values = array(request, name)
    return None if values is None else list(values.tolist())


def text_of(raw: Any, name: str) -> str:
    """BYTES arrive as bytes; they are UTF-8 or refused."""
    if isinstance(raw, str):
        return raw
    try:
        return bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValue("must be UTF-8", field=name) from None


def json_value(request: Any, name: str) -> Any:
    """The input's JSON, or None where it is absent."""
    text = value(request, name)
    return None if text is None or not text.strip() else strict_json.loads(text, field=name)


def sampling(request: Any) -> dict[str, Any]:
    """Sampling parameters by the client's names: `sampling_parameters`, and over it the tensors."""
    given = json_value(request, "sampling_parameters")
    if given is not None and not isinstance(given, dict):
        raise InvalidType("must be a JSON object", field="sampling_parameters")
    result: dict[str, Any] = dict(given or {})
    for words in (strings(request, "bad_words"), result.pop("bad_words", None)):
        if any(words or ()):
            raise InvalidValue("not supported; leave it out or empty", field="bad_words")
    for tensor in SAMPLING:
        if tensor.name == "bad_words" or (found := sampling_value(request, tensor)) is None:
            continue
        if tensor.name == "stop_words":
            result.pop("stop", None)
        result[tensor.name] = found
    return result


def sampling_value(request: Any, tensor: Tensor) -> Any:
    if tensor.dims == (1,):
        found = value(request, tensor.name)
        # FP32 has 24 bits: 0.6 arrives as 0.60000002384.
        return round(found, 7) if isinstance(found, float) else found
    return strings(request, tensor.name) if tensor.data_type == "TYPE_STRING" else ids(request, tensor.name)


def refuse_parameters(request: Any, known: Iterable[str]) -> None:
    """A JSON key that names no tensor arrives as a request parameter; unknown ones are the client's mistake."""
    parameters = strict_json.loads(request.parameters() or "{}", field="parameters")
    assert isinstance(parameters, dict)
    for name in parameters:
        if not name.startswith(("triton_", "sequence_")):
            raise UnknownField(f"not an input of this model; known: {', '.join(known)}", field=name)


def response(outputs: Sequence[tuple[Tensor, Sequence[Any]]]) -> Any:
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(tensor.name, encode(tensor, values)) for tensor, values in outputs]
    )


def encode(tensor: Tensor, values: Sequence[Any]) -> Any:
    if tensor.data_type == "TYPE_STRING":
        return np.array([each.encode("utf-8") for each in values], dtype=np.object_)
    return np.array(values, dtype=DTYPES[tensor.data_type])


def failure(error: ServingError) -> Any:
    """An error response with Triton's own code for it."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), triton_code(error)))


def triton_code(error: ServingError) -> Any:
    return getattr(pb_utils.TritonError, error.triton.value)
