"""Asks an endpoint, whole and streamed, and reads its answers without trusting them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx

from kimi_k2_cli.endpoint import OpenAIEndpoint

PATH = "/v1/chat/completions"


class BadAnswer(Exception):
    """The endpoint refused the request, or its answer is not in OpenAI's form."""


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
    endpoint: OpenAIEndpoint
    model: str

    def whole(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer."""
        try:
            response = self.endpoint.post(PATH, self._body(messages, options))
            _refuse(response.status_code, response.text)
            return _answer(response.json())
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise BadAnswer(_told(error)) from None

    def streamed(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        """Raises BadAnswer."""
        body = self._body(messages, {**options, "stream": True, "stream_options": {"include_usage": True}})
        try:
            with self.endpoint.http.stream("POST", f"{self.endpoint.root}{PATH}", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    _refuse(response.status_code, response.text)
                return _collected(response.iter_lines())
        except (httpx.HTTPError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise BadAnswer(_told(error)) from None

    def prompt_tokens(self, messages: list[dict[str, Any]], **options: Any) -> int:
        tokens = self.whole(messages, max_tokens=1, **options).usage.get("prompt_tokens")
        if not isinstance(tokens, int):
            raise BadAnswer("usage has no prompt_tokens")
        return tokens

    def _body(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": messages, "temperature": 0, **options}


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, BadAnswer) else f"no answer in OpenAI's form ({type(error).__name__})"


def _refuse(status: int, text: str) -> None:
    if status != 200:
        raise BadAnswer(f"HTTP {status}: {text[:200]}")


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
