"""A conversation as the model sees it: frozen, checked, free of any dialect.

K2-0905 is text only, so content is one string: dialects join text parts and refuse the rest before they get here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Role(enum.Enum):
    """Roles of the K2 template. `developer` and the like are mapped to SYSTEM by the dialects."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A past call. `arguments` is JSON text, verbatim as the client sent it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`name` replaces the role in the header; `tool_call_id` belongs to TOOL, `tool_calls` to ASSISTANT."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """`declaration` is the whole object the client sent, keys in its order: it is what the prompt shows.

    `parameters` is None for a tool without any. `strict` is true unless the client said false; `insists` if it said
    true: then what can't be enforced is refused.
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
    """`name` is set exactly when mode is NAMED. `allowed`: the functions that may be called, None for all."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None
    allowed: tuple[str, ...] | None = None

    def allows(self, name: str) -> bool:
        """Whether this function may be called, if any may."""
        return self.name in (None, name) and (self.allowed is None or name in self.allowed)


class FormatKind(enum.Enum):
    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """`schema` is set exactly when kind is JSON_SCHEMA. `strict` as a tool's, and `insists`."""

    kind: FormatKind = FormatKind.TEXT
    schema: Mapping[str, Json] | bool | None = None
    strict: bool = True
    insists: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One chat request: what is rendered, and what constrains the answer."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat = ResponseFormat()
