"""What a waiting user sees: lines that stay, and a status line that is rewritten in place on a terminal.

If the output is not a terminal, a status is written as an ordinary line, at most once every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from kimi_k2_serving.logs import encode_line, text_of, wants_json

_QUIET_SECONDS = 5.0
_ERRORS, _CLOSING, _WIDTH = 8, 6, 400  # error lines, last lines, characters of a line


class Progress:
    """Writes to `stream`. `clock` is monotonic, in seconds; `age` is the time that had passed before this object was
    made, in seconds. `level` is that of a JSON line.
    """

    def __init__(self, stream: TextIO, *, age: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started = clock() - age
        self._last_status = clock()
        self._json = wants_json()
        self._terminal = stream.isatty() and not self._json
        self._open = False

    def elapsed(self) -> float:
        return self._clock() - self._started

    def line(self, text: str, *, level: str = "info") -> None:
        self._close()
        self._write(f"serve: {self.elapsed():5.1f} s  {text}\n", level)

    def status(self, text: str) -> None:
        now = self._clock()
        if self._terminal:
            self._write(f"\r\033[Kserve: {self.elapsed():5.1f} s  {text[:100]}")
            self._open = True
        elif now - self._last_status >= _QUIET_SECONDS:
            self._last_status = now
            self._write(f"serve: {self.elapsed():5.1f} s  {text}\n")

    def plain(self, text: str, *, level: str = "info") -> None:
        """Write a line without the elapsed time."""
        self._close()
        self._write(f"{text}\n", level)

    def _close(self) -> None:
        if self._open:
            self._write("\r\033[K")
            self._open = False

    def _write(self, text: str, level: str = "info") -> None:
        if self._json:
            text = "".join(encode_line("serve", level, line) + "\n" for line in text.splitlines() if line)
        self._stream.write(text)
        self._stream.flush()


def read_from(path: Path, offset: int) -> str:
    """The text of a log from a byte offset on."""
    with path.open("rb") as log:
        log.seek(offset)
        return log.read().decode("utf-8", errors="replace")


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines within the last 64 KiB of a log; "" if it can't be read."""
    return "\n".join(_last(path, 64 * 1024)[-lines:])


def symptoms(path: Path) -> str:
    """The lines in the last MiB of a Triton log that explain its end: the last error lines, then the last lines."""
    lines = [line for line in _last(path, 1024 * 1024) if line.strip() and not line.startswith(("+-", "| "))]
    errors = [line for line in lines[:-_CLOSING] if line[:1] == "E" and line[1:5].isdecimal()]
    return "\n".join(line[:_WIDTH] for line in (*errors[-_ERRORS:], *lines[-_CLOSING:]))


def _last(path: Path, max_bytes: int) -> list[str]:
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - max_bytes))
            return [text_of(line) for line in log.read().decode("utf-8", errors="replace").splitlines()]
    except OSError:
        return []
