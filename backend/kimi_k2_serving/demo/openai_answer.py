"""Reads the answers of any OpenAI-compatible chat endpoint, whole or streamed, without trusting them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


class BadAnswer(Exception):
    """The endpoint gave no answer, or one that is not in OpenAI's form."""


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


@contextmanager
def _in_openai_s_form() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise BadAnswer(f"no answer in OpenAI's form ({type(error).__name__})") from None


def read_whole(text: bytes) -> EndpointAnswer:
    """Raises BadAnswer."""
    with _in_openai_s_form():
        document = json.loads(text)
        choice = document["choices"][0]
        message = choice["message"]
        calls = [
            EndpointCall(str(each["id"]), str(each["function"]["name"]), str(each["function"]["arguments"]))
            for each in message.get("tool_calls") or []
        ]
        content = message.get("content") or ""
        return EndpointAnswer(content, calls, str(choice["finish_reason"]), document.get("usage") or {})


@dataclass(slots=True)
class StreamedAnswer:
    """Takes the lines of an event stream."""

    _answer: EndpointAnswer = field(default_factory=EndpointAnswer)
    _calls: dict[int, EndpointCall] = field(default_factory=dict)
    _is_over: bool = False

    def feed(self, line: str) -> None:
        """Raises BadAnswer."""
        if self._is_over or not line.startswith("data:"):
            return
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self._is_over = True
            return
        with _in_openai_s_form():
            chunk = json.loads(data)
            if "error" in chunk:
                raise BadAnswer(f"an error in the stream: {str(chunk['error'])[:200]}")
            self._answer.usage = chunk.get("usage") or self._answer.usage
            for choice in chunk.get("choices") or []:
                self._add(choice)

    def _add(self, choice: Any) -> None:
        answer, delta = self._answer, choice.get("delta") or {}
        answer.content += delta.get("content") or ""
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        for piece in delta.get("tool_calls") or []:
            call = self._calls.setdefault(int(piece["index"]), EndpointCall())
            call.id = piece.get("id") or call.id
            function = piece.get("function") or {}
            call.name = function.get("name") or call.name
            call.arguments += function.get("arguments") or ""

    def finish(self) -> EndpointAnswer:
        """Raises BadAnswer if the stream ended too early."""
        if not self._is_over or not self._answer.finish_reason:
            raise BadAnswer("the stream ended without a finish_reason and [DONE]")
        self._answer.calls = [self._calls[index] for index in sorted(self._calls)]
        return self._answer
