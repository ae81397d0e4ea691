"""Shows the answers of `kimi-k2 chat`: content on standard output, everything else on standard error, or JSON lines
instead.

On a terminal control characters in the model's text appear as U+FFFD, so an answer can't move the cursor or set the
title. Tool calls are shown as they arrive.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO, assert_never

from kimi_k2_client import ChatAnswer, ChatEvent, ContentDelta, Finished, ToolCallDelta
from kimi_k2_serving import settings

CALL, QUIET, WARNING = "36", "2", "33"  # ANSI colours


@dataclass(slots=True)
class AnswerPace:
    """The time to the first token, and the tokens per second after it."""

    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0
    first: float | None = None

    def begin(self) -> None:
        self.begun, self.first = self.clock(), None

    def event(self) -> None:
        if self.first is None:
            self.first = self.clock()

    def told(self, tokens: int) -> str:
        """`first token 0.12 s, 41 tokens/s`; "" if there was no token."""
        if self.first is None:
            return ""
        told = f"first token {self.first - self.begun:.2f} s"
        seconds = self.clock() - self.first
        return f"{told}, {(tokens - 1) / seconds:.0f} tokens/s" if tokens > 1 and seconds > 0 else told


@dataclass(slots=True)
class Screen:
    """Writes content to `out`, and tool calls and the closing lines to `notes`."""

    out: TextIO
    notes: TextIO
    is_terminal: bool
    has_colour: bool
    at_line_start: bool = True
    pace: AnswerPace = field(default_factory=AnswerPace)
    open_call: int | None = None

    @classmethod
    def on(cls, out: TextIO, notes: TextIO) -> Screen:
        return cls(out, notes, out.isatty(), notes.isatty() and settings.wants_colour())

    def begin(self) -> None:
        self.pace.begin()

    def show(self, event: ChatEvent) -> None:
        match event:
            case ContentDelta(text):
                self.pace.event()
                self.out.write(printable(text) if self.is_terminal else text)
                self.out.flush()
                self.at_line_start = text.endswith("\n")
            case ToolCallDelta(index, _, name, arguments):
                self.pace.event()
                self._call(index, name, arguments)
            case Finished():
                pass  # shown by `close`
            case _:
                assert_never(event)

    def _call(self, index: int, name: str | None, arguments: str) -> None:
        if index != self.open_call:
            self.end_line()
            self.open_call = index
            self._piece(f"{name}(")
        self._piece(arguments)

    def _piece(self, text: str) -> None:
        text = printable(text)
        self.notes.write(f"\x1b[{CALL}m{text}\x1b[0m" if self.has_colour and text else text)
        self.notes.flush()

    def close(self, answer: ChatAnswer) -> None:
        self.end_line()
        if answer.usage is not None:
            tokens = answer.usage.completion_tokens
            used = f"{answer.usage.prompt_tokens} + {tokens} tokens"
            paced = self.pace.told(tokens) if self.is_terminal else ""
            self.note(", ".join(part for part in (answer.finish_reason.value, used, paced) if part), colour=QUIET)
        if answer.enforcement is not None:
            self.note(f"enforcement: {json.dumps(answer.enforcement, ensure_ascii=False)}", colour=WARNING)
        for line in answer.notices:
            self.note(f"notice: {line}", colour=WARNING)

    def end_line(self) -> None:
        """Move the cursor to the beginning of a line after an answer, even an incomplete one."""
        if self.open_call is not None:
            self._piece(")")
            self.notes.write("\n")
            self.notes.flush()
            self.open_call = None
        if not self.at_line_start:
            self.out.write("\n")
            self.out.flush()
            self.at_line_start = True

    def note(self, text: str, *, colour: str) -> None:
        """Write a line about the answer, in brackets."""
        self.say(f"[{text}]", colour=colour)

    def say(self, text: str, *, colour: str = QUIET) -> None:
        text = printable(text)
        print(f"\x1b[{colour}m{text}\x1b[0m" if self.has_colour else text, file=self.notes, flush=True)


@dataclass(slots=True)
class JsonLines:
    """Writes `{"type": "content" | "tool_call" | "finished", ...}`, one line per event, and flushes each."""

    out: TextIO

    def begin(self) -> None:
        pass

    def show(self, event: ChatEvent) -> None:
        match event:
            case ContentDelta(text):
                self._line({"type": "content", "text": text})
            case ToolCallDelta():
                self._line({"type": "tool_call", **asdict(event)})
            case Finished(reason, usage, enforcement, notices):
                counts = asdict(usage) if usage is not None else None
                report: dict[str, Any] = {} if enforcement is None else {"enforcement": enforcement}
                if notices:
                    report["notices"] = list(notices)
                self._line({"type": "finished", "finish_reason": reason.value, "usage": counts, **report})
            case _:
                assert_never(event)

    def _line(self, value: Mapping[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), file=self.out, flush=True)

    def close(self, answer: ChatAnswer) -> None:
        pass

    def end_line(self) -> None:
        pass

    def say(self, text: str, *, colour: str = QUIET) -> None:
        pass


def printable(text: str) -> str:
    """The text with U+FFFD for all C0 and C1 control characters except line feed and tab."""
    return "".join(character if _is_harmless(character) else "\ufffd" for character in text)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or not (character < " " or "\x7f" <= character <= "\x9f")
