"""An answer's content: what becomes of text that is no part of a call, stop strings included.

Promises: whitespace alone between two markers, or between a marker and the end, is dropped; all other text is passed on
verbatim, held back only while it may still be such whitespace or become a stop string. A stop string lies within one
run, the text between two markers; content ends before it, and nothing comes after. Rules A6, A7, A21 and A22 of
docs/kimi_k2_format.md. Linear. Never sees a call's name or arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from kimi_k2_serving.core.events import TextDelta
from kimi_k2_serving.core.phrases import PhraseScanner


class Content:
    """`stop` is the stop string that matched, or None as long as none has."""

    __slots__ = ("_after_marker", "_blank", "_open", "_scanner", "stop")

    def __init__(self, stops: Sequence[str]) -> None:
        self.stop: str | None = None
        self._scanner = PhraseScanner(stops) if any(stops) else None
        # The run so far: whitespace that is held, whether anything else came, whether a marker is to its left.
        self._blank: list[str] = []
        self._open = False
        self._after_marker = False

    def text(self, text: str) -> list[TextDelta]:
        """Text of the current run, not empty. Nothing comes of text after a stop string."""
        if not self._open:
            if text.isspace():
                self._blank.append(text)
                return []
            text = self._opened(text)
        return self._passed(text)

    def marker(self) -> list[TextDelta]:
        """A marker ends the run: whitespace alone is dropped, what might have become a stop string is released."""
        self._blank.clear()
        self._open = False
        self._after_marker = True
        return self._released()

    def finish(self) -> list[TextDelta]:
        """The answer ends. Whitespace alone is kept where it is the whole answer."""
        deltas: list[TextDelta] = []
        if self._blank and not self._after_marker:
            deltas = self._passed(self._opened(""))
        return deltas + self._released()

    def _opened(self, text: str) -> str:
        self._open = True
        if not self._blank:
            return text
        self._blank.append(text)
        text = "".join(self._blank)
        self._blank.clear()
        return text

    def _passed(self, text: str) -> list[TextDelta]:
        if self._scanner is None:
            return [TextDelta(text)]
        if self.stop is not None:
            return []
        settled, self.stop, _ = self._scanner.scan(text)
        return [TextDelta(settled)] if settled else []

    def _released(self) -> list[TextDelta]:
        held = "" if self._scanner is None else self._scanner.release()
        return [TextDelta(held)] if held else []
