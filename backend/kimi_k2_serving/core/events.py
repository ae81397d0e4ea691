"""What an answer is made of. Streaming objects emit these; every dialect is a mapping from them.

Order: TextDelta between calls, per call ToolCallStart ArgumentsDelta* ToolCallEnd (calls never interleave),
CallRejected wherever one was met, and exactly one Finish, last. `index` counts the answer's emitted calls from 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.Enum):
    """Why generation ended, as OpenAI names it."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Rejection(enum.Enum):
    """Why a call the model wrote was not emitted as a call. Values are metric labels."""

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
    """`complete` is false when the arguments are no whole JSON object (truncated, malformed); nothing is invented."""

    index: int
    complete: bool


@dataclass(frozen=True, slots=True)
class CallRejected:
    """Why a call was not emitted. Its text went to content, less the markers; that of TOO_MANY_CALLS went nowhere."""

    reason: Rejection


@dataclass(frozen=True, slots=True)
class Finish:
    """`stop` is the stop string that matched, or None."""

    reason: FinishReason
    stop: str | None = None


Event = TextDelta | ToolCallStart | ArgumentsDelta | ToolCallEnd | CallRejected | Finish
