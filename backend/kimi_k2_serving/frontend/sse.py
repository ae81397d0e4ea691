"""Server-sent events: frames, and JSON in pieces that take little time each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec

from kimi_k2_serving.core.messages import Json

# The number of characters of a text that are encoded at once.
PART = 2**16
DONE = b"data: [DONE]\n\n"
# These are legal in JSON, but clients that split at Unicode's line breaks, as httpx's iter_lines does, would cut an
# event there.
BREAKS = tuple((each.encode(), f"\\u{ord(each):04x}".encode()) for each in "\x85\u2028\u2029")
COMMENT = b": keep-alive\n\n"


def data(value: Json) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"


def event(name: str, value: Json) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)


def encode_json(value: Json) -> bytes:
    """Compact JSON in UTF-8. It contains no line break, not even Unicode's, so it fits on one line of a frame."""
    try:
        data = msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, ValueError):
        # Rare: a lone surrogate, or a number that only Python's encoder accepts.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_parsed)
        data = text.encode("utf-8", "replace")
    return _lines_escaped(data)


def _lines_escaped(data: bytes) -> bytes:
    for line_break, escaped in BREAKS:
        if line_break in data:
            data = data.replace(line_break, escaped)
    return data


def _parsed(part: msgspec.Raw) -> Json:
    value: Json = json.loads(bytes(part))
    return value


def written(data: bytes | memoryview) -> Any:
    """A result of `encode_json` as a part of another value. It is copied, not encoded again."""
    return msgspec.Raw(data)


def verbatim(text: str) -> Any:
    """JSON text from elsewhere as a part of another value."""
    return msgspec.Raw(_lines_escaped(text.encode("utf-8", "replace")))


class Fragments(list[bytes]):
    """A value that is already JSON, in pieces. `list_of` makes it, and `encode_pieces` accepts it."""


def encode_members(values: list[Any]) -> bytes:
    """A list's JSON without its brackets."""
    return encode_json(values)[1:-1]


def list_of(pieces: Iterable[bytes]) -> Fragments:
    """One JSON list of several results of `encode_members`, none of them empty."""
    found = Fragments([b"["])
    for piece in pieces:
        found += [piece] if len(found) == 1 else [b",", piece]
    found.append(b"]")
    return found


def encode_pieces(value: Any) -> Iterator[bytes]:
    """`encode_json` in pieces. Each takes well under a millisecond to make and copy. Values may be `Fragments`."""
    match value:
        case Fragments():
            yield from value
        case dict():
            opening = b"{"
            for name, each in value.items():
                yield opening + encode_json(name) + b":"
                yield from encode_pieces(each)
                opening = b","
            yield b"}" if value else b"{}"
        case list():
            opening = b"["
            for each in value:
                yield opening
                yield from encode_pieces(each)
                opening = b","
            yield b"]" if value else b"[]"
        case str() if len(value) > PART:
            yield b'"'
            for start in range(0, len(value), PART):
                yield encode_json(value[start : start + PART])[1:-1]
            yield b'"'
        case msgspec.Raw():
            data = memoryview(value)
            for start in range(0, len(data), PART):
                yield bytes(data[start : start + PART])
        case _:
            yield encode_json(value)


async def gather_pieces(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Join `pieces` into larger ones, of PART bytes or more. After each, the event loop serves other requests."""
    found: list[bytes] = []
    size = 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size >= PART:
            yield b"".join(found)
            found, size = [], 0
            await asyncio.sleep(0)
    yield b"".join(found)


def large_event(name: str, value: Any) -> AsyncIterator[bytes]:
    """The frame of `event`, in pieces."""
    return gather_pieces((b"event: " + name.encode() + b"\ndata: ", *encode_pieces(value), b"\n\n"))
