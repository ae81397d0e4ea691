"""The log lines of every process: text, or with KIMI_K2_LOG_FORMAT=json one JSON object a line.

Each object has time, level, process, pid and message, and request if the line is about one: the frontend's id of it, or
the uid of its run in the engine. Lines of other programs (Triton, SGLang, a traceback) are wrapped by `scripts/serve`,
which reads the output of the processes that it starts. No line has a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO

from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import InvalidValue

# Loggers of this package; SGLang takes the root logger for itself.
OWN = ("kimi_k2_serving", "sglang::host")
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical", "V": "debug"}
# As much of one line is kept; a longer one is several lines.
LINE_BYTES = 64 * 1024


def wants_json(environ: Mapping[str, str] | None = None) -> bool:
    """Whether lines are JSON. Of settings that are wrong the program says so, in text."""
    try:
        return settings.Settings.read(environ).json_logs
    except InvalidValue:
        return False


def encode_line(process: str, level: str, message: str, *, pid: int | None = None, **more: Any) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "process": process, "pid": pid or os.getpid(), "message": message}
    return json.dumps(line | more)


class LineFormatter(logging.Formatter):
    """`process` names this process. A record's attribute `request` and the items of its `fields` become keys of the
    line, and its `summary` the message.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = getattr(record, "summary", None) or record.getMessage()
        more: dict[str, Any] = {}
        if request := getattr(record, "request", None):
            more["request"] = request
        more |= getattr(record, "fields", None) or {}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        return encode_line(self._process, record.levelname.lower(), message, **more)


def begin(process: str, level: int = logging.WARNING, *, text: str | None = None, to: TextIO | None = None) -> None:
    """Log to standard error from here on. `text`: the format of text lines; without it, Python's own stays."""
    stream = to or sys.stderr
    if wants_json():
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LineFormatter(process))
        logging.basicConfig(handlers=[handler], level=level)
        for name in OWN:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(level)
    elif text is not None:
        logging.basicConfig(format=text, level=level, stream=stream)


def say(process: str, text: str, *, level: str = "info", to: TextIO | None = None) -> None:
    """Write one line of a process that has no logger."""
    print(encode_line(process, level, text) if wants_json() else text, file=to or sys.stderr, flush=True)


def text_of(line: str) -> str:
    """The text of a line of a log in either format."""
    found = _decoded(line)
    return line if found is None else str(found.get("message", line))


def _decoded(line: str) -> dict[str, Any] | None:
    """The object of a JSON line that one of our processes wrote, None for any other line."""
    if not line.startswith('{"time": '):
        return None
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def wrap(line: str, process: str, pid: int) -> str:
    """A line of the program `process` as JSON: as it is if one of our processes wrote it."""
    if _decoded(line) is not None:
        return line
    # Triton's lines begin with the first letter of their level, month and day: `E1126 22:59:42.1`.
    level = _LEVELS.get(line[:1], "info") if line[1:5].isdecimal() else "info"
    return encode_line(process, level, line, pid=pid)


def wrap_all(source: BinaryIO, log: BinaryIO, process: str, pid: int) -> None:
    """Copy lines until the end of `source`; blank ones are left out."""
    while raw := source.readline(LINE_BYTES):
        if line := raw.decode("utf-8", errors="replace").rstrip():
            log.write(wrap(line, process, pid).encode() + b"\n")
            log.flush()
