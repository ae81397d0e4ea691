"""Decodes server-sent events: `feed(chunk)` returns the data of every event that the chunk completes.

It reads the WHATWG event-stream format without the fields that Triton never sends (`event`, `id` and `retry` are
skipped), and does not interpret the data. Work is linear in the number of bytes, however they are cut. As the format
says, an event that the end of the stream cuts short is dropped; `decoder.py` notices that the answer is incomplete.
"""

from __future__ import annotations


class SseDecoder:
    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes, in order, UTF-8 as sent."""
        events: list[bytes] = []
        for piece in chunk.splitlines(keepends=True):
            if self._after_cr and piece == b"\n":  # the second half of a CRLF that two chunks share
                self._after_cr = False
                continue
            self._line += piece.rstrip(b"\r\n")
            self._after_cr = piece.endswith(b"\r")
            if piece.endswith((b"\r", b"\n")):
                self._end_line(events)
        return events

    def _end_line(self, events: list[bytes]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data.clear()
        elif line == b"data" or line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
