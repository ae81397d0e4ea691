"""Asks an endpoint for whole and streamed answers. It retries while the endpoint is busy, until the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from kimi_k2_cli.endpoint import OpenAIEndpoint
from kimi_k2_serving.demo.openai_answer import BadAnswer, EndpointAnswer, StreamedAnswer, read_whole

PATH = "/v1/chat/completions"
# Fields that an endpoint need not support: OpenAI's own models and services differ in them.
OPTIONAL = ("tool_choice", "response_format", "stop", "stream_options")
REFUSALS = (400, 422, 501)
BUSY = (429, 503)
PAUSES = (1.0, 4.0, 15.0)  # seconds before another try at a busy endpoint
REQUEST_SECONDS = 180.0


class RefusedField(BadAnswer):
    """The endpoint does not take a request with one of the OPTIONAL fields."""


class Busy(BadAnswer):
    """The endpoint takes no request now."""


class OutOfTime(Exception):
    """The time for all checks is over."""


@dataclass(frozen=True, slots=True)
class Asker:
    """`ends`: the end of the time for all checks, on the monotonic clock. `sleep` waits for a busy endpoint."""

    endpoint: OpenAIEndpoint
    model: str
    ends: float = float("inf")
    sleep: Callable[[float], None] = time.sleep

    def whole(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer or OutOfTime."""
        body = self._body(messages, options)
        return self._patiently(body, lambda response: read_whole(response.read()))

    def streamed(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer or OutOfTime."""
        body = self._body(messages, {**options, "stream": True, "stream_options": {"include_usage": True}})
        return self._patiently(body, _streamed)

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
        url = self.endpoint.at(PATH)
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

    def _body(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, "temperature": 0, **options}


def _refusal(status: int, text: str, body: dict[str, Any]) -> BadAnswer:
    told = f"HTTP {status}: {text[:200]}"
    if status in BUSY:
        return Busy(told)
    if status in REFUSALS and (fields := [name for name in OPTIONAL if name in body]):
        return RefusedField(f"the endpoint refuses a request with {', '.join(fields)}: {told}")
    return BadAnswer(told)


def _streamed(response: httpx.Response) -> EndpointAnswer:
    answer = StreamedAnswer()
    for line in response.iter_lines():
        answer.feed(line)
    return answer.finish()
