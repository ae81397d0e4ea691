"""Emits an answer's content, which is the text outside calls, and matches stop strings in it.

A run is the text between two markers. Promises: a run of only whitespace after a marker is dropped; all other text is
emitted unchanged, held back only while it may still be such a run or become a stop string. A stop string must lie
within one run; content ends before it, and nothing follows. Rules A6, A7, A21 and A22 of docs/kimi_k2_format.md.
Linear. Never sees a call's name or arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from kimi_k2_serving.core.events import TextDelta
from kimi_k2_serving.core.phrases import PhraseScanner


class Content:
    """`stop` is the stop string that matched, None until then."""

    __slots__ = ("_after_marker", "_blank", "_open", "_scanner", "stop")

    def __init__(self, stops: Sequence[str]) -> None:
        self.stop: str | None = None
        self._scanner = PhraseScanner(stops) if any(stops) else None
        # The run so far: the whitespace held back, whether other text came, and whether a marker came before the run.
        self._blank: list[str] = []
        self._open = False
        self._after_marker = False

    def text(self, text: str) -> list[TextDelta]:
        """Add text, not empty, to the current run. Text after a stop string yields nothing."""
        if not self._open:
            if text.isspace():
                self._blank.append(text)
                return []
            text = self._open_run(text)
        return self._emit(text)

    def marker(self) -> list[TextDelta]:
        """A marker ends the run. Drop the run if it is only whitespace, else release the text held back."""
        self._blank.clear()
        self._open = False
        self._after_marker = True
        return self._release()

    def finish(self) -> list[TextDelta]:
        """The answer ends. A run of only whitespace is kept if it is the whole answer."""
        deltas: list[TextDelta] = []
        if self._blank and not self._after_marker:
            deltas = self._emit(self._open_run(""))
        return deltas + self._release()

    def _open_run(self, text: str) -> str:
        self._open = True
        if not self._blank:
            return text
        self._blank.append(text)
        text = "".join(self._blank)
        self._blank.clear()
        return text

    def _emit(self, text: str) -> list[TextDelta]:
        if self._scanner is None:
            return [TextDelta(text)]
        if self.stop is not None:
            return []
        settled, self.stop, _ = self._scanner.scan(text)
        return [TextDelta(settled)] if settled else []

    def _release(self) -> list[TextDelta]:
        held = "" if self._scanner is None else self._scanner.release()
        return [TextDelta(held)] if held else []
