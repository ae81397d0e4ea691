"""What a user gives a command: the text or JSON of a named file, of standard input or of an argument, or an error that
says which of them is wrong and why.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidRequest, InvalidValue, MissingField
from kimi_k2_serving.core.messages import Json


def read_text(path: Path, field: str) -> str:
    """Raises InvalidValue for `field` if it can't be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}", field=field) from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{path} is not UTF-8 text", field=field) from None


def read_lines(path: Path, field: str) -> list[tuple[int, str]]:
    """The lines of a JSONL file that are not blank, with their numbers. Raises what `read_text` raises."""
    # Not `splitlines`: a string in JSON may contain Unicode's other line breaks.
    lines = enumerate(read_text(path, field).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]


def read_json(path: Path, field: str) -> Json:
    """Raises InvalidValue for `field`, also for what `strict_json` refuses."""
    text = read_text(path, field)
    try:
        return strict_json.loads(text, field=field)
    except InvalidRequest as error:
        raise InvalidValue(f"{path}: {error.detail}", field=field) from None


def read_stdin(field: str = "stdin") -> bytes:
    """All of standard input. Raises MissingField if it is closed."""
    # Python has no sys.stdin if the descriptor was closed before it started.
    if sys.stdin is None:
        raise MissingField("standard input is closed", field=field)
    return sys.stdin.buffer.read()


def text_argument(given: str) -> str:
    """The type of an argparse argument that a server gets. Bytes that are not UTF-8 reach Python as lone surrogates."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not UTF-8 text") from None
    return given
