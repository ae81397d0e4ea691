"""The prompt of a command: its argument, or standard input as UTF-8."""

from __future__ import annotations

import sys

from kimi_k2_cli.given_file import read_stdin
from kimi_k2_serving.core.errors import InvalidValue, MissingField


def prompt_of(argument: str | None) -> str:
    """Raises MissingField if there is none or it is blank, InvalidValue if standard input is not UTF-8."""
    text = _standard_input() if argument is None else argument
    if not text.strip():
        raise MissingField("give it as an argument, or on standard input", field="prompt")
    return text


def _standard_input() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        print("the prompt (Ctrl-D on a line of its own ends it):", file=sys.stderr, flush=True)
    try:
        return read_stdin("prompt").decode()
    except UnicodeDecodeError:
        raise InvalidValue("standard input is not UTF-8 text", field="prompt") from None
