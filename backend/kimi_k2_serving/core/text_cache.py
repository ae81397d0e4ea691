"""Ids of texts seen lately: least recently used, bounded in bytes, thread-safe.

A conversation comes back whole at every turn; its old texts cost one hash each. Ids are kept as a tensor holds them, 32
bits each, so that a long prompt is joined without an object for every id. Knows nothing of tokens but that they are
integers. The encoder runs outside the lock, so two threads may encode the same new text; both get the same ids.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

# CPython on 64 bits: hash slot, link and index of an ordered dictionary's entry, its tuple, and the cost.
ENTRY_BYTES = 384


def packed(ids: Iterable[int]) -> bytes:
    """Ids as 32-bit integers in the machine's byte order: `array("i", ...)` and numpy read it back."""
    return array("i", ids).tobytes()


class TextCache:
    """`bound` and `bytes` are bytes of memory: the estimate above plus the sizes of each text and of its ids."""

    def __init__(self, encode: Callable[[str], list[int]], bound: int) -> None:
        self.bytes = 0
        self._encode = encode
        self._bound = bound
        self._lock = Lock()
        self._entries: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    def get_all(self, texts: Iterable[str]) -> dict[str, bytes]:
        """The packed ids of every text, encoding those that are new."""
        found: dict[str, bytes] = {}
        missing: list[str] = []
        with self._lock:
            for text in dict.fromkeys(texts):
                entry = self._entries.get(text)
                if entry is None:
                    missing.append(text)
                else:
                    self._entries.move_to_end(text)
                    found[text] = entry[1]
        fresh = {text: packed(self._encode(text)) for text in missing}
        with self._lock:
            for text, ids in fresh.items():
                self._add(text, ids)
        return found | fresh

    def _add(self, text: str, ids: bytes) -> None:
        cost = ENTRY_BYTES + sys.getsizeof(text) + sys.getsizeof(ids)
        if text in self._entries or cost > self._bound:
            return
        self._entries[text] = (cost, ids)
        self.bytes += cost
        while self.bytes > self._bound:
            self.bytes -= self._entries.popitem(last=False)[1][0]
