"""Finds the first of several phrases in text that arrives in pieces, with an Aho-Corasick automaton.

Promises: the same match however the text is split; text is held back only while it may still become a phrase; the
number of steps per character is bounded, whatever the phrases are. The match is the phrase that ends first; of several
that end together, it is the longest. It does not know what a match means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_ROOT = 0


class Scan(NamedTuple):
    """`text` is final and contains no phrase; `phrase` is the match or None; `position` is where to continue."""

    text: str
    phrase: str | None
    position: int


class PhraseScanner:
    """Empty phrases are ignored. Without any phrase, no text is held back."""

    __slots__ = ("_depth", "_fail", "_firsts", "_found", "_held", "_next", "_node")

    def __init__(self, phrases: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._found: list[str | None] = [None]
        self._depth: list[int] = [0]
        for phrase in phrases:
            self._insert(phrase)
        self._fail = [_ROOT] * len(self._next)
        self._link()
        self._firsts = tuple(self._next[_ROOT])
        self._node = _ROOT
        self._held = ""

    def _insert(self, phrase: str) -> None:
        node = _ROOT
        for character in phrase:
            following = self._next[node].get(character)
            if following is None:
                following = len(self._next)
                self._next[node][character] = following
                self._next.append({})
                self._found.append(None)
                self._depth.append(self._depth[node] + 1)
            node = following
        if phrase:
            self._found[node] = phrase

    def _link(self) -> None:
        # Breadth first: the failure link of a node leads to a shallower node, whose own link is already final.
        queue = list(self._next[_ROOT].values())
        for node in queue:
            for character, child in self._next[node].items():
                self._fail[child] = self._step(self._fail[node], character)
                if self._found[child] is None:
                    self._found[child] = self._found[self._fail[child]]
                queue.append(child)

    def _step(self, node: int, character: str) -> int:
        while True:
            following = self._next[node].get(character)
            if following is not None:
                return following
            if node == _ROOT:
                return _ROOT
            node = self._fail[node]

    def scan(self, text: str, position: int = 0) -> Scan:
        """Read text[position:] up to the first match. After a match the scanner is reset and can continue behind it."""
        node, start = self._node, position
        if node == _ROOT:
            position = self._candidate(text, position)
        for position in range(position, len(text)):  # noqa: B020 - goes on from where the candidate was found
            node = self._next[node].get(text[position]) or self._step(node, text[position])
            phrase = self._found[node]
            if phrase is not None:
                # The text held back is a proper prefix of a phrase, so the match may begin inside it.
                settled = (self._held + text[start : position + 1])[: -len(phrase)]
                self._node, self._held = _ROOT, ""
                return Scan(settled, phrase, position + 1)
        self._node = node
        seen = self._held + text[start:] if self._held else text[start:]
        keep = len(seen) - self._depth[node]
        self._held = seen[keep:]
        return Scan(seen[:keep], None, len(text))

    def _candidate(self, text: str, position: int) -> int:
        """The first place from `position` on where a phrase could begin, or the end."""
        places = [place for first in self._firsts if (place := text.find(first, position)) >= 0]
        return min(places, default=len(text))

    def release(self) -> str:
        """Return the text held back, which did not become a phrase, and reset the scanner."""
        held, self._held, self._node = self._held, "", _ROOT
        return held
