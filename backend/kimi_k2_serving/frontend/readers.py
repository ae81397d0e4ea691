"""The processes that read large request bodies, as the frontend calls them."""

from __future__ import annotations

import sys

from kimi_k2_serving.frontend.reading import Read, Reading, decode_reading, name
from kimi_k2_serving.reading.lane import SMALL_BYTES, USUAL_BYTES, ReaderLanes

__all__ = ["SMALL_BYTES", "USUAL_BYTES", "Readers"]


class Readers(ReaderLanes):
    """`description` is an encoded `reader.Description`."""

    def __init__(self, description: bytes, *, python: str = sys.executable) -> None:
        super().__init__("kimi_k2_serving.frontend.reader", description, field="body", python=python)

    async def read(self, reading: Reading, body: bytes) -> Read:
        """Raises the errors of `reading`, or DeadlineExceeded, Overloaded, ShuttingDown or Internal."""
        return decode_reading(await self.ask(name(reading), (body,)))
