"""Ids of texts seen lately: least recently used, bounded in bytes, thread-safe.

A conversation comes back whole at every turn; its old texts cost one hash each. Knows nothing of tokens but that they
are integers. The encoder runs outside the lock, so two threads may encode the same new text; both get the same ids.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock

Ids = tuple[int, ...]

# CPython on 64 bits: an entry (hash slot, link, two tuple headers, cost), and one id (a reference and an int object).
ENTRY_BYTES = 384
ID_BYTES = 8 + 32


class TextCache:
    """`bound` and `bytes` are bytes of memory, by the estimate above plus each text's own size."""

    def __init__(self, encode: Callable[[str], list[int]], bound: int) -> None:
        self.bytes = 0
        self._encode = encode
        self._bound = bound
        self._lock = Lock()
        self._entries: OrderedDict[str, tuple[int, Ids]] = OrderedDict()

    def get_all(self, texts: Iterable[str]) -> dict[str, Ids]:
        """The ids of every text, encoding those that are new."""
        found: dict[str, Ids] = {}
        missing: list[str] = []
        with self._lock:
            for text in dict.fromkeys(texts):
                entry = self._entries.get(text)
                if entry is None:
                    missing.append(text)
                else:
                    self._entries.move_to_end(text)
                    found[text] = entry[1]
        fresh = {text: tuple(self._encode(text)) for text in missing}
        with self._lock:
            for text, ids in fresh.items():
                self._add(text, ids)
        return found | fresh

    def _add(self, text: str, ids: Ids) -> None:
        cost = ENTRY_BYTES + sys.getsizeof(text) + ID_BYTES * len(ids)
        if text in self._entries or cost > self._bound:
            return
        self._entries[text] = (cost, ids)
        self.bytes += cost
        while self.bytes > self._bound:
            self.bytes -= self._entries.popitem(last=False)[1][0]
