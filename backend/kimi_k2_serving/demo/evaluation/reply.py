"""An answer of an OpenAI-compatible server, put together from a message or from deltas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class EndpointReply:
    """An answer as it came. `problem`: why there is none, or why it is not an answer."""

    content: str = ""
    names: dict[int, str] = field(default_factory=dict)
    arguments: dict[int, str] = field(default_factory=dict)
    reason: str | None = None
    problem: str = ""
    seconds: float = 0

    def add(self, message: dict[str, Any]) -> None:
        """A message, or a delta of one."""
        self.content += message.get("content") or ""
        for place, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index", place)
            function = call.get("function") or {}
            self.names[index] = self.names.get(index, "") + (function.get("name") or "")
            self.arguments[index] = self.arguments.get(index, "") + (function.get("arguments") or "")

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Name and JSON text of each call, in order."""
        return [(self.names[index], self.arguments.get(index, "")) for index in sorted(self.names)]
