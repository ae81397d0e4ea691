"""Server-sent events: frames, and a stream of them that is never silent for long.

`paced` reads ahead of the client by a bounded number of frames, hands over whatever has gathered as one piece, and ends
its source however it ends itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.core.messages import Json

# Frames that wait for a slow reader; past that the source waits too.
WAITING_FRAMES = 64
DONE = b"data: [DONE]\n\n"
# JSON may hold them as they are, but clients that read Unicode's lines, as httpx's iter_lines does, end one there.
BREAKS = tuple((each.encode(), f"\\u{ord(each):04x}".encode()) for each in "\x85\u2028\u2029")
COMMENT = b": keep-alive\n\n"


def data(value: Json) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def event(name: str, value: Json) -> bytes:
    return b"event: " + name.encode() + b"\n" + data(value)


def encode(value: Json) -> bytes:
    """Compact JSON in UTF-8; it has no line breaks, not even Unicode's, so it is one line of a frame."""
    try:
        data = msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError, ValueError):
        # Half a surrogate pair, or a number that only Python has: slow and rare.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_parsed)
        data = text.encode("utf-8", "replace")
    for line_break, escaped in BREAKS:
        if line_break in data:
            data = data.replace(line_break, escaped)
    return data


def _parsed(part: msgspec.Raw) -> Json:
    value: Json = json.loads(bytes(part))
    return value


def written(data: bytes) -> Any:
    """What `encode` gave, as a part of another value: it is copied, not written again."""
    return msgspec.Raw(data)


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
            gathered = []
            while isinstance(item, bytes):
                gathered.append(item)
                if inbox.empty():
                    break
                item = inbox.get_nowait()
            if gathered:
                yield b"".join(gathered)
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
