"""Token ids to text, as they come: a character split over tokens is held back until it is whole.

Control ids have no text and are skipped. Bytes that are no UTF-8 become U+FFFD, as in every decoder of this model;
joined over all calls, the text is that of all ids at once. Linear.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol


class TokenBytes(Protocol):
    """What the decoder needs of a vocabulary."""

    def token_bytes(self, token: int) -> bytes: ...


class TextDecoder:
    """One stream's decoder; holds at most three bytes between calls."""

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
        """What is left: U+FFFD for a character that never became whole, else nothing."""
        text, self._held = self._held.decode("utf-8", "replace"), b""
        return text
