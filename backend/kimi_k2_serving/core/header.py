"""Finds the declared tool that a call's header names.

The model writes `functions.{name}:{n}`. This module also covers every other form that the model has been seen to write.
The counter n is ignored, because ids are issued anew. It knows names, but no schemas. Rules A12 and A13 of
docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kimi_k2_serving.core.events import Rejection

_PREFIX = "functions."
# Some clients rewrite `functions.{name}:{n}` this way in the history, and the model copies it.
_PREFIX_REWRITTEN = "functions_"
# The characters that end a namespace before a name that is declared without it. `_` and `-` are parts of names.
_NAMESPACE_ENDS = (".", ":", "/")


def resolve_header(header: str, tools: Collection[str]) -> str | Rejection:
    """The declared name, MALFORMED_HEADER if the header does not have the form of a call, else UNDECLARED_NAME."""
    header = header.strip()
    for reading in _readings(header):
        if reading in tools:
            return reading
    name, counted = _without_counter(header, ":")
    qualified = [tool for tool in tools if name.endswith(tuple(end + tool for end in _NAMESPACE_ENDS))]
    if qualified:
        return max(qualified, key=len)
    if _is_counter(header):
        return next(iter(tools)) if len(tools) == 1 else Rejection.MALFORMED_HEADER
    shaped = (counted or header.startswith(_PREFIX)) and name.removeprefix(_PREFIX)
    return Rejection.UNDECLARED_NAME if shaped else Rejection.MALFORMED_HEADER


def _readings(header: str) -> Iterator[str]:
    """The ways to read the header as one name, beginning with the documented format."""
    name, _ = _without_counter(header, ":")
    yield name.removeprefix(_PREFIX)
    yield header.removeprefix(_PREFIX)
    yield name
    yield header
    rewritten, counted = _without_counter(header, "_")
    if counted and rewritten.startswith(_PREFIX_REWRITTEN):
        yield rewritten.removeprefix(_PREFIX_REWRITTEN)


def _without_counter(header: str, separator: str) -> tuple[str, bool]:
    name, found, counter = header.rpartition(separator)
    return (name, True) if found and _is_counter(counter) else (header, False)


def _is_counter(text: str) -> bool:
    return text.isascii() and text.isdigit()
