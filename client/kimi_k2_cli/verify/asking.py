"""Asks an endpoint, whole and streamed, and reads its answers without trusting them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from kimi_k2_cli.endpoint import OpenAIEndpoint

PATH = "/v1/chat/completions"
# What an endpoint may do without: OpenAI's own models and services differ in these.
OPTIONAL = ("tool_choice", "response_format", "stop", "stream_options")
REFUSALS = (400, 422, 501)
BUSY = (429, 503)
PAUSES = (1.0, 4.0, 15.0)  # seconds before another try at a busy endpoint
REQUEST_SECONDS = 180.0
UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError)


class BadAnswer(Exception):
    """The endpoint gave no answer, or one that is not in OpenAI's form."""


class RefusedField(BadAnswer):
    """The endpoint does not take a request with one of the OPTIONAL fields."""


class Busy(BadAnswer):
    """The endpoint takes no request now."""


class OutOfTime(Exception):
    """The time for all checks is over."""


@dataclass(slots=True)
class EndpointCall:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class EndpointAnswer:
    """`usage` is {} if there was none."""

    content: str = ""
    calls: list[EndpointCall] = field(default_factory=list)
    finish_reason: str = ""
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All text that the model wrote."""
        return "".join((self.content, *(f"{call.name}{call.arguments}" for call in self.calls)))


@dataclass(frozen=True, slots=True)
class Asker:
    """`ends`: when the time for all checks is over, on the monotonic clock. `sleep` waits for a busy endpoint."""

    endpoint: OpenAIEndpoint
    model: str
    ends: float = float("inf")
    sleep: Callable[[float], None] = time.sleep

    def whole(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer or OutOfTime."""
        body = self._body(messages, options)
        return self._patiently(body, lambda response: _answer(json.loads(response.read())))

    def streamed(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer or OutOfTime."""
        body = self._body(messages, {**options, "stream": True, "stream_options": {"include_usage": True}})
        return self._patiently(body, lambda response: _collected(response.iter_lines()))

    def _patiently(self, body: dict[str, Any], read: Callable[[httpx.Response], EndpointAnswer]) -> EndpointAnswer:
        for pause in PAUSES:
            try:
                return self._asked(body, read)
            except Busy:
                self.sleep(pause)
        return self._asked(body, read)

    def _asked(self, body: dict[str, Any], read: Callable[[httpx.Response], EndpointAnswer]) -> EndpointAnswer:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise OutOfTime
        timeout = httpx.Timeout(min(left, REQUEST_SECONDS), connect=10.0)
        url = f"{self.endpoint.root}{PATH}"
        try:
            with self.endpoint.http.stream("POST", url, json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response.status_code, response.text, body)
                return read(response)
        except httpx.TimeoutException:
            if time.monotonic() >= self.ends:
                raise OutOfTime from None
            raise BadAnswer(f"no answer within {REQUEST_SECONDS:.0f} s") from None
        except httpx.HTTPError as error:
            raise BadAnswer(f"the connection failed ({type(error).__name__})") from None
        except UNREADABLE as error:
            raise BadAnswer(f"no answer in OpenAI's form ({type(error).__name__})") from None

    def _body(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, "temperature": 0, **options}


def _refusal(status: int, text: str, body: dict[str, Any]) -> BadAnswer:
    told = f"HTTP {status}: {text[:200]}"
    if status in BUSY:
        return Busy(told)
    if status in REFUSALS and (fields := [name for name in OPTIONAL if name in body]):
        return RefusedField(f"the endpoint refuses a request with {', '.join(fields)}: {told}")
    return BadAnswer(told)


def _answer(document: Any) -> EndpointAnswer:
    choice = document["choices"][0]
    message = choice["message"]
    calls = [
        EndpointCall(str(each["id"]), str(each["function"]["name"]), str(each["function"]["arguments"]))
        for each in message.get("tool_calls") or []
    ]
    return EndpointAnswer(
        message.get("content") or "", calls, str(choice["finish_reason"]), document.get("usage") or {}
    )


def _collected(lines: Iterable[str]) -> EndpointAnswer:
    answer = EndpointAnswer()
    calls: dict[int, EndpointCall] = {}
    is_over = False
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            is_over = True
            break
        chunk = json.loads(data)
        if "error" in chunk:
            raise BadAnswer(f"an error in the stream: {str(chunk['error'])[:200]}")
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk.get("choices", []):
            _add(answer, calls, choice)
    if not is_over or not answer.finish_reason:
        raise BadAnswer("the stream ended without a finish_reason and [DONE]")
    answer.calls = [calls[index] for index in sorted(calls)]
    return answer


def _add(answer: EndpointAnswer, calls: dict[int, EndpointCall], choice: Any) -> None:
    delta = choice.get("delta") or {}
    answer.content += delta.get("content") or ""
    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    for piece in delta.get("tool_calls") or []:
        call = calls.setdefault(int(piece["index"]), EndpointCall())
        call.id = piece.get("id") or call.id
        function = piece.get("function") or {}
        call.name = function.get("name") or call.name
        call.arguments += function.get("arguments") or ""
