"""Decodes token ids to text as they arrive. A character that is split over several tokens is held back until it is
complete.

Control ids have no text and are skipped. Bytes that are not UTF-8 become U+FFFD, as in every decoder of this model. The
texts of all calls, joined, equal the text of all ids decoded at once. Linear.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class TokenBytes(Protocol):
    """The part of a vocabulary that the decoder needs."""

    def token_bytes(self, token: int) -> bytes: ...


class TextDecoder:
    """The decoder of one stream. Holds back at most three bytes between calls."""

    __slots__ = ("_held", "_token_bytes")

    def __init__(self, vocabulary: TokenBytes) -> None:
        self._token_bytes = vocabulary.token_bytes
        self._held = b""

    def feed(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; raises InvalidValue for an id outside the vocabulary."""
        data = self._held + b"".join(map(self._token_bytes, ids))
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def finish(self) -> str:
        """The rest: U+FFFD for a character that is still incomplete, else nothing."""
        text, self._held = self._held.decode("utf-8", "replace"), b""
        return text
