"""Server-sent events: frames, and a stream of them that is never silent for long.

`paced` reads ahead of the client by a bounded number of frames, hands over whatever has gathered as one piece, and ends
its source however it ends itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.core.messages import Json

# Frames that wait for a slow reader; past that the source waits too.
WAITING_FRAMES = 64
# Characters of a text that are encoded at once.
PART = 2**16
DONE = b"data: [DONE]\n\n"
# JSON may hold them as they are, but clients that read Unicode's lines, as httpx's iter_lines does, end one there.
BREAKS = tuple((each.encode(), f"\\u{ord(each):04x}".encode()) for each in "\x85\u2028\u2029")
COMMENT = b": keep-alive\n\n"


def data(value: Json) -> bytes:
    return b"data: " + encode_json(value) + b"\n\n"


def event(name: str, value: Json) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)


def encode_json(value: Json) -> bytes:
    """Compact JSON in UTF-8; it has no line breaks, not even Unicode's, so it is one line of a frame."""
    try:
        data = msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, ValueError):
        # Half a surrogate pair, or a number that only Python has: slow and rare.
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
    """What `encode_json` gave, as a part of another value: it is copied, not written again."""
    return msgspec.Raw(data)


def verbatim(text: str) -> Any:
    """JSON that somebody else wrote, as a part of another value."""
    return msgspec.Raw(_lines_escaped(text.encode("utf-8", "replace")))


class Fragments(list[bytes]):
    """A part of a document that is JSON already, in pieces, as `list_of` and `encode_pieces` take it."""


def encode_members(values: list[Any]) -> bytes:
    """A list's JSON without its brackets."""
    return encode_json(values)[1:-1]


def list_of(pieces: Iterable[bytes]) -> Fragments:
    """One list of what `members` made of several, none of them empty."""
    found = Fragments([b"["])
    for piece in pieces:
        found += [piece] if len(found) == 1 else [b",", piece]
    found.append(b"]")
    return found


def encode_pieces(value: Any) -> Iterator[bytes]:
    """`encode_json` in pieces, each made and copied in well under a millisecond. Values may be `Fragments`."""
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
    """The same bytes in pieces of some size; others have their turn after each."""
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
    """`event` in pieces."""
    return gather_pieces((b"event: " + name.encode() + b"\ndata: ", *encode_pieces(value), b"\n\n"))


async def paced(source: AsyncIterator[bytes], *, seconds: float, idle: bytes) -> AsyncIterator[bytes]:
    """`idle` whenever nothing came for `seconds`. Raises the source's error in its place."""
    inbox: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(WAITING_FRAMES)

    async def pump() -> None:
        try:
            async with aclosing(source):  # type: ignore[type-var]
                async for frame in source:
                    await inbox.put(frame)
            await inbox.put(None)
        except Exception as error:
            await inbox.put(error)
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            # Cancelled from within, as gRPC does to a call when its channel closes.
            await inbox.put(EngineLost("the answer broke off before its end; send it again"))

    task = asyncio.create_task(pump())
    try:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    item = await inbox.get()
            except TimeoutError:
                yield idle
                continue
            waiting = []
            while isinstance(item, bytes):
                waiting.append(item)
                if inbox.empty():
                    break
                item = inbox.get_nowait()
            if waiting:
                yield b"".join(waiting)
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
