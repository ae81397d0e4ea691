"""The events of an answer. The parsers emit them; each API maps them to its own shapes.

Order: TextDelta between calls; for each call ToolCallStart ArgumentsDelta* ToolCallEnd (calls never interleave);
CallRejected where a call was rejected; exactly one Finish at the end. `index` counts the answer's emitted calls from 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.Enum):
    """Why generation ended, by OpenAI's names."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Rejection(enum.Enum):
    """Why a call that the model wrote was not emitted as a call. Values are metric labels."""

    UNDECLARED_NAME = "undeclared_name"
    MALFORMED_HEADER = "malformed_header"
    TRUNCATED_HEADER = "truncated_header"
    TOO_MANY_CALLS = "too_many_calls"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of content: whole code points, never a control token, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """`id` is `functions.{name}:{n}`, n counted over the whole conversation."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of the call's JSON text, never empty."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """`complete` is false if the arguments are not a whole JSON object (truncated, malformed). Nothing is repaired."""

    index: int
    complete: bool


@dataclass(frozen=True, slots=True)
class CallRejected:
    """Why a call was not emitted. Its text without markers went to content, but that of TOO_MANY_CALLS was dropped."""

    reason: Rejection


@dataclass(frozen=True, slots=True)
class Finish:
    """`stop` is the stop string that matched, or None."""

    reason: FinishReason
    stop: str | None = None


Event = TextDelta | ToolCallStart | ArgumentsDelta | ToolCallEnd | CallRejected | Finish
