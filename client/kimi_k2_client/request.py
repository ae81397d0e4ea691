"""Builds a request as Triton tensors, by pure functions that all clients and transports share.

A request is a model's name and a list of one-dimensional tensors. JSON values are sent as JSON text in a string tensor,
because Triton's `generate` accepts no objects. Values that Triton would change silently (an int outside its tensor's
range) or can't handle (NaN, a lone surrogate) are refused with InvalidRequest before anything is sent. A JSON value may
have a tool's text, so a lone surrogate in it is sent escaped. The server reads it as U+FFFD.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

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


ToolChoice = Literal["auto", "none", "required"] | Mapping[str, Any]


class SamplingOptions(TypedDict, total=False):
    """The options of every request. One that is None or absent is not sent: the server's default applies.

    max_tokens: the maximum number of new tokens; without it, the rest of the context
    min_tokens: the minimum number of new tokens
    temperature: 0 (always the likeliest token) to 2
    top_p: more than 0, at most 1: only the likeliest tokens with this much probability together
    top_k: only this number of the likeliest tokens; 0 or -1 for all
    min_p: 0 to 1: only tokens with this share of the likeliest one's probability
    frequency_penalty, presence_penalty: -2 to 2: against tokens that were written, per occurrence or once
    repetition_penalty: 0.01 to 2: above 1 against tokens of prompt and answer
    seed: has an effect only if the engine is deterministic; a notice says so otherwise
    stop: one string or up to 16 that end the answer, and are left out of it
    stop_token_ids: token ids that end the answer
    logit_bias: token id to a number from -100 to 100 that is added to its logit
    ignore_eos: go on after the end of the turn, for benchmarks
    priority: -100 to 100; of the waiting requests, those with higher values start first
    deadline: seconds, to the millisecond; a request that takes longer fails with DeadlineExceeded
    sampling_parameters: more parameters by SGLang's names; an option above overrides one of the same name
    """

    max_tokens: int | None
    min_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool | None
    priority: int | None
    deadline: float | None
    sampling_parameters: Mapping[str, Any] | None


class AnswerOptions(SamplingOptions, total=False):
    """The options of a chat whose tools and answer format are chosen elsewhere.

    parallel_tool_calls: False allows at most one call in an answer
    """

    parallel_tool_calls: bool | None


class ChatOptions(AnswerOptions, total=False):
    """The options of a chat, in OpenAI's form.

    tools: the declared functions, `{"type": "function", "function": {"name", "description", "parameters"}}`
    tool_choice: "auto" (the default), "none", "required", or the function that must be called
    response_format: the form of the content, such as `{"type": "json_schema", "json_schema": {...}}`
    continue_final_message: the last message, from the assistant, begins the answer, which has only what follows
    """

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: ToolChoice | None
    response_format: Mapping[str, Any] | None
    continue_final_message: bool | None


def chat_request(
    messages: Messages,
    *,
    model: str,
    stream: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: ToolChoice | None = None,
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
    """A request to the engine, with text or token ids. The answer does not repeat the prompt. Raises InvalidRequest."""
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
    *,
    stop: str | Sequence[str] | None = None,
    stop_token_ids: Sequence[int] | None = None,
    logit_bias: Mapping[int, float] | None = None,
    deadline: float | None = None,
    sampling_parameters: Mapping[str, Any] | None = None,
    **scalars: Any,
) -> list[InputTensor]:
    """`scalars` are the options that each have a tensor. Raises TypeError for an option that does not exist."""
    if unknown := scalars.keys() - _SCALARS.keys():
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}; known: {', '.join(_OPTIONS)}")
    tensors = [_scalar("stream", Datatype.BOOL, stream)]
    for name, (tensor, datatype) in _SCALARS.items():
        if (value := scalars.get(name)) is not None:
            tensors.append(_scalar(tensor, datatype, value))
    if deadline is not None:
        tensors.append(_scalar("timeout_ms", Datatype.INT32, _milliseconds(deadline)))
    if stop is not None and (words := [stop] if isinstance(stop, str) else stop):
        tensors.append(_vector("stop_words", Datatype.BYTES, words))
    if stop_token_ids:
        tensors.append(_vector("stop_token_ids", Datatype.INT32, stop_token_ids))
    more = dict(sampling_parameters or {})
    if logit_bias:
        more["logit_bias"] = {str(token): bias for token, bias in logit_bias.items()}
    if more:
        tensors.append(_document("sampling_parameters", more))
    return tensors


def _milliseconds(seconds: float) -> int:
    """At least 1, because 0 means no deadline to the server."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidRequest("invalid_type", "must be a number of seconds", field="deadline", status=400)
    if not 0 < seconds <= _LONGEST_DEADLINE:
        raise InvalidRequest(
            "invalid_value", "must be more than 0 seconds, at most 24 days", field="deadline", status=400
        )
    return max(1, round(seconds * 1000))


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


# option -> its tensor
_SCALARS = {
    "max_tokens": ("max_tokens", Datatype.INT32),
    "min_tokens": ("min_tokens", Datatype.INT32),
    "temperature": ("temperature", Datatype.FP32),
    "top_p": ("top_p", Datatype.FP32),
    "top_k": ("top_k", Datatype.INT32),
    "min_p": ("min_p", Datatype.FP32),
    "frequency_penalty": ("frequency_penalty", Datatype.FP32),
    "presence_penalty": ("presence_penalty", Datatype.FP32),
    "repetition_penalty": ("repetition_penalty", Datatype.FP32),
    "seed": ("seed", Datatype.UINT64),
    "ignore_eos": ("ignore_eos", Datatype.BOOL),
    "priority": ("request_priority", Datatype.INT32),
}
_OPTIONS = sorted({*_SCALARS, *ChatOptions.__optional_keys__})
_LONGEST_DEADLINE = 24 * 86_400  # seconds; milliseconds must fit into 32 bits
_RANGES = {Datatype.INT32: (-(2**31), 2**31 - 1), Datatype.UINT64: (0, 2**64 - 1)}
_LARGEST_FP32 = 3.4028234e38
_NOUNS = {
    Datatype.BYTES: "text",
    Datatype.BOOL: "true or false",
    Datatype.INT32: "an integer",
    Datatype.UINT64: "an integer",
    Datatype.FP32: "a number",
}
