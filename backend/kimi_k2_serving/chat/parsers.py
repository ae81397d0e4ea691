"""Parsers of an answer's ids: for a chat the tool-call parser of core, for a completion one that yields plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kimi_k2_serving.core.events import Event, Finish, FinishReason, TextDelta
from kimi_k2_serving.core.phrases import PhraseScanner
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary


class Parser(Protocol):
    """Turns an answer's ids into events; `stopped`: the answer is complete, and further ids have no effect."""

    @property
    def stopped(self) -> bool: ...

    def feed(self, ids: Sequence[int]) -> list[Event]: ...

    def finish(self, reason: FinishReason) -> list[Event]: ...


class TextParser:
    """For a completion without a chat: text up to the first stop string; control ids have no text."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]) -> None:
        self._decoder = TextDecoder(vocabulary)
        self._scanner = PhraseScanner(stops)
        self._stop: str | None = None

    @property
    def stopped(self) -> bool:
        return self._stop is not None

    def feed(self, ids: Sequence[int]) -> list[Event]:
        return self._text(self._decoder.feed(ids))

    def finish(self, reason: FinishReason) -> list[Event]:
        events = self._text(self._decoder.finish())
        held = self._scanner.release() if self._stop is None else ""
        if held:
            events.append(TextDelta(held))
        return [*events, Finish(FinishReason.STOP if self._stop is not None else reason, self._stop)]

    def _text(self, text: str) -> list[Event]:
        if self._stop is not None or not text:
            return []
        settled, self._stop, _ = self._scanner.scan(text)
        return [TextDelta(settled)] if settled else []
