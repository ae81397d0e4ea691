"""Which declared tool a call's header names.

The model writes `functions.{name}:{n}`; what else it has been seen to write is listed here, each with one outcome. The
counter is never used: ids are issued anew. Knows names only, no schemas. Rules A12 and A13 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kimi_k2_serving.core.events import Rejection

_PREFIX = "functions."
# A client's rewriting of `functions.{name}:{n}` that comes back out of histories.
_PREFIX_REWRITTEN = "functions_"
# What may stand before a name that is declared without its namespace; `_` and `-` are parts of names.
_NAMESPACE_ENDS = (".", ":", "/")


def resolve_header(header: str, tools: Collection[str]) -> str | Rejection:
    """The declared name, or why there is none: MALFORMED_HEADER if it has no call's shape, else UNDECLARED_NAME."""
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
    """Ways to read the header as exactly one name, the written format first."""
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
