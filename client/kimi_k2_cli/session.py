"""The conversation that `kimi-k2 chat` has with a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kimi_k2_cli.screen import JsonLines, Screen
from kimi_k2_client import ChatAnswer, ChatEvent, Client, collect


@dataclass(slots=True)
class ChatSession:
    """`options` are the client's, without the messages."""

    client: Client
    screen: Screen | JsonLines
    options: Mapping[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    def answer(self) -> ChatAnswer:
        """Stream the next answer to the screen and append it. An exception cancels it on the server."""
        events: list[ChatEvent] = []
        self.screen.begin()
        try:
            with self.client.chat_stream(self.messages, **self.options) as stream:
                for event in stream:
                    events.append(event)
                    self.screen.show(event)
        finally:
            self.screen.end_line()
        answer = collect(events)
        self.screen.close(answer)
        self.messages.append(answer.message())
        return answer

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else {}
        return str(first["content"]) if first.get("role") == "system" else None

    def set_system(self, text: str) -> None:
        """Replace the system message; "" removes it."""
        if self.system is not None:
            del self.messages[0]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def clear(self) -> None:
        """Forget everything but the system message."""
        del self.messages[self.system is not None :]
