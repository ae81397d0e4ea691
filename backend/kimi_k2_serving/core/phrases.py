"""Find the first of several phrases in text that arrives in pieces.

Promises: a phrase is found the same way however the text is split; text is held back only while it may still become
a phrase; every character is looked at a bounded number of times, whatever the phrases (an Aho-Corasick automaton).
The match is the one that ends first; of several that end together, the longest. Knows nothing of what a match means.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_ROOT = 0


class Scan(NamedTuple):
    """`text` is settled and free of phrases; `phrase` is the match or None; `position` is where to go on."""

    text: str
    phrase: str | None
    position: int


class PhraseScanner:
    """Empty phrases are ignored; with none left every text is settled at once."""

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
        # Breadth first: a node's failure link is shallower, so it is final before the node is visited.
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
        """Read text[position:] up to the first match; after one the scanner is as new and can go on behind it."""
        node, start = self._node, position
        if node == _ROOT:
            position = self._candidate(text, position)
        for position in range(position, len(text)):  # noqa: B020 - goes on from where the candidate was found
            node = self._next[node].get(text[position]) or self._step(node, text[position])
            phrase = self._found[node]
            if phrase is not None:
                # Held text is a proper prefix of a phrase, so the match may begin inside it.
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
        """Give up what is held back: it became no phrase."""
        held, self._held, self._node = self._held, "", _ROOT
        return held
