"""A conversation as the model sees it: frozen, checked, and independent of the API through which it came.

K2-0905 reads text only, so content is one string: the readers of each API join text parts and refuse other content.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Role(enum.Enum):
    """Roles of the K2 template. The readers of each API map `developer` and similar roles to SYSTEM."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A past call. `arguments` is the JSON text exactly as the client sent it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`name` replaces the role in the header. Only TOOL has a `tool_call_id`, only ASSISTANT has `tool_calls`."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """`declaration` is the object that the client sent, with its order of keys; the prompt shows it.

    `parameters` is None for a tool without parameters. `strict` is true unless the client sent false. `insists` is true
    only if the client sent true; then a schema that can't be enforced is refused.
    """

    name: str
    declaration: Mapping[str, Json]
    parameters: Mapping[str, Json] | bool | None = None
    strict: bool = True
    insists: bool = field(default=False, compare=False)


class ToolMode(enum.Enum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` is set if and only if mode is NAMED. `allowed`: the functions that may be called, None for all."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    allowed: tuple[str, ...] | None = None

    def allows(self, name: str) -> bool:
        """Whether this function may be called, provided that the mode allows calls."""
        return self.name in (None, name) and (self.allowed is None or name in self.allowed)


class FormatKind(enum.Enum):
    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """`schema` is set if and only if kind is JSON_SCHEMA. `strict` and `insists` mean the same as in Tool."""

    kind: FormatKind = FormatKind.TEXT
    schema: Mapping[str, Json] | bool | None = None
    strict: bool = True
    insists: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat request: the messages and tools to render, and the constraints on the answer.

    `continues`: the last message, of role ASSISTANT and without calls, is the beginning of the answer.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
    continues: bool = False

    @property
    def prefix(self) -> str:
        """The text with which the answer begins; the model writes only what follows it."""
        return self.messages[-1].content if self.continues else ""
