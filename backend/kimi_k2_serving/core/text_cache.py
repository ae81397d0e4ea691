"""A least-recently-used cache of the ids of texts, bounded in bytes, thread-safe.

Every turn sends the whole conversation again; each of its old texts costs one hash. Ids are stored as packed 32-bit
integers, so that joining a long prompt makes no Python object per id. It knows only that tokens are integers. The
encoder runs outside the lock, so two threads may encode the same new text; both get the same ids.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

# The memory of an entry in addition to its text and ids, in 64-bit CPython: its slot, link and index in the ordered
# dictionary, the tuple, and the integer in it.
ENTRY_BYTES = 384


def packed(ids: Iterable[int]) -> bytes:
    """Ids as 32-bit integers in the machine's byte order, readable with `array("i", ...)` and numpy."""
    return array("i", ids).tobytes()


class TextCache:
    """`bound` and `bytes` are in bytes of memory: ENTRY_BYTES plus the sizes of the text and its ids, per entry."""

    def __init__(self, encode: Callable[[str], list[int]], bound: int) -> None:
        self.bytes = 0
        self._encode = encode
        self._bound = bound
        self._lock = Lock()
        self._entries: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    def get_all(self, texts: Iterable[str]) -> dict[str, bytes]:
        """The packed ids of every text. Texts that are not in the cache are encoded and added."""
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
