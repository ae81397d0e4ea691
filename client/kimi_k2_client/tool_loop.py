"""The conversation of `run_tools`, without sending: the work of both clients between two answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from kimi_k2_client.answer import ChatAnswer
from kimi_k2_client.errors import TooManyRounds
from kimi_k2_client.functions import FunctionTool
from kimi_k2_client.request import Messages, ToolChoice


@dataclass(frozen=True, slots=True)
class ToolRun:
    """The last answer, which calls no tool; the whole conversation, including that answer; and the number of answers
    that called tools.
    """

    answer: ChatAnswer
    messages: list[dict[str, Any]]
    rounds: int


@dataclass(slots=True)
class ToolLoop:
    """The conversation of one `run_tools`: its messages so far, the declared tools, and the rounds that were used."""

    messages: list[dict[str, Any]]
    declarations: list[dict[str, Any]]
    max_rounds: int
    rounds: int = 0

    @classmethod
    def begin(cls, messages: Messages, tools: Mapping[str, FunctionTool], max_rounds: int) -> Self:
        """Start a loop from the caller's messages, which are copied; a string is one message of the user."""
        given = (
            [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(each) for each in messages]
        )
        return cls(given, [tool.declaration for tool in tools.values()], max_rounds)

    def choice(self, first: ToolChoice | None) -> ToolChoice | None:
        """The tool choice of the next request."""
        return first if self.rounds == 0 else None

    def take(self, answer: ChatAnswer) -> bool:
        """Append the answer. Returns whether it calls tools."""
        self.messages.append(answer.message())
        self.rounds += bool(answer.tool_calls)
        return bool(answer.tool_calls)

    def check(self) -> None:
        """Raise TooManyRounds if the model has called tools in `max_rounds` answers."""
        if self.rounds >= self.max_rounds:
            raise TooManyRounds(self.rounds, self.messages)

    def run(self, answer: ChatAnswer) -> ToolRun:
        """The result of the loop, with its last answer."""
        return ToolRun(answer, self.messages, self.rounds)
