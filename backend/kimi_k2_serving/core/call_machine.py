"""Parses the structure of an answer: text and markers in, events out. The states:

    CONTENT    outside calls; also inside a section, between calls: sections only group calls
    HEADER     after call_begin: the name is collected, nothing is emitted
    ARGUMENTS  after argument_begin: a JSON object, emitted as it arrives
    FINISHED   after the end: further input yields no events

Promises: events depend only on the text and the markers, not on how the text was split. Text is lost only by rules A6,
A15 and A17 of docs/kimi_k2_format.md. Text is added only for empty arguments, which become `{}`. Linear; size
unbounded. It does not know where markers come from: they are single tokens, but in replayed text they also have a
spelling.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence

from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Event,
    Finish,
    FinishReason,
    Rejection,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.header import resolve_header
from kimi_k2_serving.core.json_scan import ObjectScanner
from kimi_k2_serving.core.limits import TOOL_CALLS_PER_ANSWER
from kimi_k2_serving.core.stops import Content


class Marker(enum.Enum):
    """The five control tokens that structure an answer, by their names in the vocabulary."""

    SECTION_BEGIN = "<|tool_calls_section_begin|>"
    SECTION_END = "<|tool_calls_section_end|>"
    CALL_BEGIN = "<|tool_call_begin|>"
    ARGUMENT_BEGIN = "<|tool_call_argument_begin|>"
    CALL_END = "<|tool_call_end|>"


class _State(enum.Enum):
    CONTENT = enum.auto()
    HEADER = enum.auto()
    ARGUMENTS = enum.auto()
    FINISHED = enum.auto()


class _Body(enum.Enum):
    """The destination of the current call's arguments."""

    CALL = enum.auto()
    CONTENT = enum.auto()
    NOWHERE = enum.auto()


class CallMachine:
    """`tools` are the declared names; `first_index` is the number of earlier calls in the conversation."""

    __slots__ = ("_body", "_calls", "_content", "_first_index", "_header", "_max_calls", "_object", "_state", "_tools")

    def __init__(self, *, tools: Collection[str], first_index: int, parallel: bool, stops: Sequence[str]) -> None:
        self._tools = frozenset(tools)
        self._first_index = first_index
        self._max_calls = TOOL_CALLS_PER_ANSWER.value if parallel else 1
        self._content = Content(stops)
        self._state = _State.CONTENT
        self._header: list[str] = []
        self._object = ObjectScanner()
        self._body = _Body.NOWHERE
        self._calls = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has matched or the answer is finished. Then further input yields no events."""
        return self._content.stop is not None or self._state is _State.FINISHED

    @property
    def in_string(self) -> bool:
        """Whether the text so far ends inside a string of a call's JSON, where a marker's spelling is data."""
        return self._state is _State.ARGUMENTS and self._object.in_string

    def text(self, text: str) -> Sequence[Event]:
        """Events of a piece of text, which must not be empty."""
        state = self._state
        if state is _State.ARGUMENTS:
            return self._arguments(text)
        if state is _State.CONTENT:
            return self._content.text(text)
        if state is _State.HEADER:
            self._header.append(text)
        return []

    def marker(self, marker: Marker, spelling: str = "") -> Sequence[Event]:
        """Events of a marker. A marker with a `spelling` is data if it comes inside a string of a call's JSON."""
        if self.stopped:
            return []
        if spelling and self.in_string:
            return self._arguments(spelling)
        if self._state is _State.ARGUMENTS and marker is Marker.ARGUMENT_BEGIN:
            return []
        if self._state is _State.HEADER and marker is Marker.ARGUMENT_BEGIN:
            return self._begin()
        events = self._end(Rejection.MALFORMED_HEADER, ended_by_marker=True)
        if not self.stopped:
            events += self._content.marker()
            self._state = _State.HEADER if marker is Marker.CALL_BEGIN else _State.CONTENT
        return events

    def finish(self, reason: FinishReason) -> Sequence[Event]:
        """Events of the answer's end; Finish is last. `reason` is STOP or LENGTH. A second call yields no events."""
        if self._state is _State.FINISHED:
            return []
        events: list[Event] = []
        if self._content.stop is None:
            events += self._end(Rejection.TRUNCATED_HEADER, ended_by_marker=False)
            events += self._content.finish()
        self._state = _State.FINISHED
        stop = self._content.stop
        if stop is not None:
            reason = FinishReason.STOP
        if self._calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        return [*events, Finish(reason, stop)]

    def _begin(self) -> list[Event]:
        """The header is complete: begin the call, or reject it. A rejected call's header goes where its body goes."""
        header = "".join(self._header)
        self._header.clear()
        self._object = ObjectScanner()
        self._state = _State.ARGUMENTS
        name = resolve_header(header, self._tools)
        if isinstance(name, Rejection):
            self._body = _Body.CONTENT
            return [CallRejected(name), *(self._content.text(header) if header else ())]
        if self._calls == self._max_calls:
            self._body = _Body.NOWHERE
            return [CallRejected(Rejection.TOO_MANY_CALLS)]
        self._body = _Body.CALL
        self._calls += 1
        index = self._calls - 1
        return [ToolCallStart(index, f"functions.{name}:{self._first_index + index}", name)]

    def _arguments(self, text: str) -> Sequence[Event]:
        scanner = self._object
        if not scanner.started:
            text = text.lstrip()
            if not text:
                return []
        used = scanner.feed(text)
        if not scanner.closed:
            return self._emit(text)
        events = [*self._emit(text[:used]), *self._close(complete=scanner.valid)]
        if not self.stopped:
            # The call ends where its object ends. The end marker that follows has no special meaning then.
            self._state = _State.CONTENT
            events += self._content.marker()
            if used < len(text):
                events += self._content.text(text[used:])
        return events

    def _emit(self, text: str) -> Sequence[Event]:
        if self._body is _Body.CALL:
            return [ArgumentsDelta(self._calls - 1, text)]
        return self._content.text(text) if self._body is _Body.CONTENT else []

    def _close(self, *, complete: bool) -> list[Event]:
        return [ToolCallEnd(self._calls - 1, complete)] if self._body is _Body.CALL else []

    def _end(self, unfinished_header: Rejection, *, ended_by_marker: bool) -> list[Event]:
        """End the open call, if there is one. Its JSON object has not closed."""
        if self._state is _State.HEADER:
            header = "".join(self._header)
            self._header.clear()
            return [CallRejected(unfinished_header), *(self._content.text(header) if header else ())]
        if self._state is not _State.ARGUMENTS:
            return []
        if ended_by_marker and not self._object.started:
            return [*self._emit("{}"), *self._close(complete=True)] if self._body is _Body.CALL else []
        return self._close(complete=False)
