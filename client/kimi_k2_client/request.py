"""Builds a request as Triton tensors, by pure functions that all clients and transports share.

A request is a model's name and a list of one-dimensional tensors. JSON values are sent as JSON text in a string tensor,
because Triton's `generate` accepts no objects. Values that Triton would change silently (an int outside its tensor's
range) or can't handle (NaN, a lone surrogate) are refused with InvalidRequest before anything is sent. In a JSON value,
which may have a tool's text, a lone surrogate is sent escaped: the server reads it as U+FFFD.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from kimi_k2_client.errors import InvalidRequest

CHAT_MODEL = "kimi_k2"
ENGINE_MODEL = "kimi_k2_engine"

Scalar = str | bool | int | float
Messages = str | Sequence[Mapping[str, Any]]


class Datatype(enum.Enum):
    """KServe's names for the tensor types in use."""

    BYTES = "BYTES"
    BOOL = "BOOL"
    INT32 = "INT32"
    UINT64 = "UINT64"
    FP32 = "FP32"


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A one-dimensional input. `is_scalar`: the model declares its shape as [1]."""

    name: str
    datatype: Datatype
    values: tuple[Scalar, ...]
    is_scalar: bool


@dataclass(frozen=True, slots=True)
class Request:
    """`stream`: the answer comes in pieces, not as exactly one response."""

    model: str
    tensors: tuple[InputTensor, ...]
    stream: bool


class SamplingOptions(TypedDict, total=False):
    """The options of both models. `sampling_parameters` is for those without a tensor (`top_k`, `min_p`, ...)."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    sampling_parameters: Mapping[str, Any] | None


class ChatOptions(SamplingOptions, total=False):
    """The options of a chat, in OpenAI's form."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    # True: the last message, from the assistant, is the beginning of the answer, which has only what follows.
    continue_final_message: bool | None


def chat_request(
    messages: Messages,
    *,
    model: str,
    stream: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel_tool_calls: bool | None = None,
    response_format: Mapping[str, Any] | None = None,
    continue_final_message: bool | None = None,
    **sampling: Any,
) -> Request:
    """A request to the ensemble. A `str` is one user message. Raises InvalidRequest."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    documents = {
        "messages": messages,
        "tools": tools,
        "tool_choice": tool_choice,
        "response_format": response_format,
    }
    tensors = [_document(name, value) for name, value in documents.items() if value is not None]
    if parallel_tool_calls is not None:
        tensors.append(_scalar("parallel_tool_calls", Datatype.BOOL, parallel_tool_calls))
    if continue_final_message is not None:
        tensors.append(_scalar("continue_final_message", Datatype.BOOL, continue_final_message))
    return Request(model, (*tensors, *_sampling_tensors(stream, **sampling)), stream)


def generate_request(prompt: str | Sequence[int], *, model: str, stream: bool, **sampling: Any) -> Request:
    """A request to the engine: text, or token ids. The answer leaves the prompt out. Raises InvalidRequest."""
    if isinstance(prompt, str):
        source = _scalar("text_input", Datatype.BYTES, prompt)
    else:
        source = _vector("input_ids", Datatype.INT32, prompt)
    wanted = ("exclude_input_in_output", "return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
    flags = [_scalar(name, Datatype.BOOL, True) for name in wanted]
    return Request(model, (source, *_sampling_tensors(stream, **sampling), *flags), stream)


def generate_body(request: Request) -> bytes:
    """The request as the JSON body of Triton's `generate` and `generate_stream`."""
    inputs = {tensor.name: tensor.values[0] if tensor.is_scalar else tensor.values for tensor in request.tensors}
    return json.dumps(inputs, allow_nan=False).encode()


def _sampling_tensors(
    stream: bool,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    sampling_parameters: Mapping[str, Any] | None = None,
) -> list[InputTensor]:
    scalars = (
        ("stream", Datatype.BOOL, stream),
        ("max_tokens", Datatype.INT32, max_tokens),
        ("temperature", Datatype.FP32, temperature),
        ("top_p", Datatype.FP32, top_p),
        ("seed", Datatype.UINT64, seed),
    )
    tensors = [_scalar(name, datatype, value) for name, datatype, value in scalars if value is not None]
    if stop is not None and (words := [stop] if isinstance(stop, str) else stop):
        tensors.append(_vector("stop_words", Datatype.BYTES, words))
    if sampling_parameters is not None:
        tensors.append(_document("sampling_parameters", sampling_parameters))
    return tensors


def _document(name: str, value: object) -> InputTensor:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("invalid_json", "can't be encoded as JSON", field=name, status=400) from None
    return _scalar(name, Datatype.BYTES, text if _is_encodable(text) else json.dumps(value))


def _scalar(name: str, datatype: Datatype, value: Scalar) -> InputTensor:
    return InputTensor(name, datatype, (_checked(name, datatype, value),), is_scalar=True)


def _vector(name: str, datatype: Datatype, values: Sequence[Scalar]) -> InputTensor:
    checked = tuple(_checked(f"{name}[{position}]", datatype, value) for position, value in enumerate(values))
    return InputTensor(name, datatype, checked, is_scalar=False)


def _checked(field: str, datatype: Datatype, value: Scalar) -> Scalar:
    match datatype, value:
        case Datatype.BYTES, str():
            return _text(field, value)
        case Datatype.BOOL, bool():
            return value
        case ((Datatype.INT32 | Datatype.UINT64), int()) if not isinstance(value, bool):
            return _integer(field, value, *_RANGES[datatype])
        case Datatype.FP32, int() | float() if not isinstance(value, bool):
            return _real(field, value)
    kind = type(value).__name__
    raise InvalidRequest("invalid_type", f"must be {_NOUNS[datatype]}, not {kind}", field=field, status=400)


def _text(field: str, value: str) -> str:
    if not _is_encodable(value):
        raise InvalidRequest("invalid_value", "must not contain a lone surrogate", field=field, status=400)
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidRequest("invalid_value", f"must be between {low} and {high}", field=field, status=400)
    return int(value)


def _real(field: str, value: float) -> float:
    if not abs(value) <= _LARGEST_FP32:  # false for NaN, too
        raise InvalidRequest("invalid_value", "must be a finite 32-bit number", field=field, status=400)
    return float(value)


_RANGES = {Datatype.INT32: (-(2**31), 2**31 - 1), Datatype.UINT64: (0, 2**64 - 1)}
_LARGEST_FP32 = 3.4028234e38
_NOUNS = {
    Datatype.BYTES: "text",
    Datatype.BOOL: "true or false",
    Datatype.INT32: "an integer",
    Datatype.UINT64: "an integer",
    Datatype.FP32: "a number",
}
