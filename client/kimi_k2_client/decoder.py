"""Decodes responses to events: `feed(outputs) -> list[event]`, then `finish() -> list[event]`.

Outputs are a response's tensors by name, for every transport. Any tensor may be absent from a response. Call `finish`
when the transport says that the answer is complete. It returns Finished, or raises ConnectionLost if there was no
finish reason, because then the answer was cut off. A tensor of the wrong type raises UnexpectedAnswer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from kimi_k2_client.answer import (
    ChatEvent,
    ContentDelta,
    Finished,
    TokensDelta,
    TokensEvent,
    ToolCallDelta,
    Usage,
)
from kimi_k2_client.errors import Cancelled, UnexpectedAnswer, lost, refusal
from kimi_k2_client.request import Scalar
from kimi_k2_serving.core.events import FinishReason

Outputs = Mapping[str, Sequence[Scalar]]
Event_co = TypeVar("Event_co", covariant=True)
T = TypeVar("T", str, int)


class Decoder(Protocol[Event_co]):
    """Turns the outputs of a request's responses into events."""

    def feed(self, outputs: Outputs) -> Sequence[Event_co]:
        """The events of one response."""

    def finish(self) -> Sequence[Event_co]:
        """The events that follow the last response. Raises ConnectionLost if the answer is incomplete."""


class ChatDecoder:
    """Decodes the ensemble's answer."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._enforcement: Mapping[str, Any] | None = None
        self._notices: tuple[str, ...] = ()

    def feed(self, outputs: Outputs) -> list[ChatEvent]:
        events: list[ChatEvent] = []
        if text := _first(outputs, "text_output", str):
            events.append(ContentDelta(text))
        if calls := _first(outputs, "tool_calls", str):
            events.extend(_tool_call_deltas(calls))
        if reason := _first(outputs, "finish_reason", str):
            self._reason = _finish_reason(reason)
        if usage := _first(outputs, "usage", str):
            self._usage = _usage(usage)
        if report := _first(outputs, "enforcement", str):
            self._enforcement = _report(report)
        if lines := _first(outputs, "notices", str):
            self._notices = _lines(lines)
        return events

    def finish(self) -> list[ChatEvent]:
        if self._reason is None:
            raise lost()
        return [Finished(self._reason, self._usage, self._enforcement, self._notices)]


class TokensDecoder:
    """Decodes the engine's answer. Counts output tokens by their ids."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._prompt: int | None = None
        self._cached = 0
        self._written = 0

    def feed(self, outputs: Outputs) -> list[TokensEvent]:
        if reason := _first(outputs, "finish_reason", str):
            self._reason = _finish_reason(reason)
        if (prompt := _first(outputs, "num_input_tokens", int)) is not None:
            self._prompt = prompt
        if (cached := _first(outputs, "num_cached_tokens", int)) is not None:
            self._cached = cached
        text = _first(outputs, "text_output", str) or ""
        ids = tuple(_all(outputs, "output_ids", int))
        self._written += len(ids)
        return [TokensDelta(text, ids)] if text or ids else []

    def finish(self) -> list[TokensEvent]:
        if self._reason is None:
            raise lost()
        usage = None
        if self._prompt is not None:
            usage = Usage(self._prompt, self._written, self._prompt + self._written, self._cached)
        return [Finished(self._reason, usage)]


def decode_json(body: bytes) -> Outputs:
    """One JSON response of `generate` or one event of `generate_stream`. Raises the error for an `error` in it."""
    try:
        response = json.loads(body)
    except (ValueError, RecursionError):
        raise UnexpectedAnswer("a response is not JSON") from None
    if not isinstance(response, dict):
        raise UnexpectedAnswer("a response is not a JSON object")
    if isinstance(error := response.get("error"), str):
        raise refusal(error)
    return {name: value if isinstance(value, list) else [value] for name, value in response.items()}


def _all(outputs: Outputs, name: str, kind: type[T]) -> list[T]:
    values = outputs.get(name, ())
    typed = [value for value in values if isinstance(value, kind)]
    if len(typed) != len(values):
        raise UnexpectedAnswer(f"output {name} is not {kind.__name__}")
    return typed


def _first(outputs: Outputs, name: str, kind: type[T]) -> T | None:
    values = _all(outputs, name, kind)
    return values[0] if values else None


def _finish_reason(text: str) -> FinishReason:
    if text == "abort":
        raise Cancelled("cancelled", "this request was aborted", status=499)
    try:
        return FinishReason(text)
    except ValueError:
        raise UnexpectedAnswer("the finish_reason is unknown to this client") from None


def _tool_call_deltas(text: str) -> Iterator[ToolCallDelta]:
    """OpenAI's deltas or whole calls. Whole calls have no index, so their position is used."""
    deltas = _parse("tool_calls", text)
    for position, delta in enumerate(deltas if isinstance(deltas, list) else [None]):
        match delta:
            case {"function": dict(function), **others} if isinstance(index := others.get("index", position), int):
                yield ToolCallDelta(
                    index=index,
                    id=_optional_text(others, "id"),
                    name=_optional_text(function, "name"),
                    arguments=_optional_text(function, "arguments") or "",
                )
            case _:
                raise UnexpectedAnswer("tool_calls is not a list of tool-call deltas")


def _optional_text(source: Mapping[Any, Any], key: str) -> str | None:
    value = source.get(key)
    if value is not None and not isinstance(value, str):
        raise UnexpectedAnswer(f"tool_calls: {key} is not text")
    return value


def _usage(text: str) -> Usage:
    match _parse("usage", text):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion), **rest}:
            return Usage(prompt, completion, prompt + completion, _cached_tokens(rest))
    raise UnexpectedAnswer("usage has no token counts")


def _report(text: str) -> Mapping[str, Any]:
    report = _parse("enforcement", text)
    if not isinstance(report, dict):
        raise UnexpectedAnswer("enforcement is not a JSON object")
    return report


def _lines(text: str) -> tuple[str, ...]:
    lines = _parse("notices", text)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UnexpectedAnswer("notices is not a list of lines")
    return tuple(lines)


def _cached_tokens(usage: Mapping[Any, Any]) -> int:
    """The count of cached tokens: the one next to the other counts, or that in OpenAI's `prompt_tokens_details`."""
    match usage:
        case {"cached_tokens": int(cached)} | {"prompt_tokens_details": {"cached_tokens": int(cached)}}:
            return cached
    return 0


def _parse(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnexpectedAnswer(f"output {name} is not JSON") from None
