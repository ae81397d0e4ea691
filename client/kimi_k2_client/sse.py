"""Server-sent events, bytes in and data out: `feed(chunk)` gives the data of every event completed by the chunk.

The WHATWG event-stream format, less what Triton never sends (`event`, `id` and `retry` are skipped). Knows nothing of
what the data means. Work is linear in the bytes fed, however they are cut. An event that the end of the stream cuts
short is dropped, as the format says; that the answer is incomplete is for its decoder to see.
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
