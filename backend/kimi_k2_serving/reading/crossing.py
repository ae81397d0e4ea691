"""What crosses between a process that reads requests and the one that serves them: prompts, errors, and large texts.

Promises: every error of the tree arrives as the class that it was; a text is not copied on the side that serves.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.core.errors import Internal, ServingError

dump = msgspec.msgpack.encode
load = msgspec.msgpack.decode
# A reader's answer begins with one of these.
READ, REFUSED = b"\1", b"\0"


def json_text(value: Any) -> str:
    """Fast: a grammar has megabytes, and no other thread has the interpreter meanwhile."""
    return msgspec.json.encode(value).decode()


def pack(small: Any, texts: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Pieces that, one behind the other, are what `unpack` takes."""
    head = dump([small, [[name, len(text)] for name, text in texts.items()]])
    return (struct.pack("<I", len(head)), head, *texts.values())


def unpack(data: bytes) -> tuple[Any, dict[str, bytes]]:
    (size,) = struct.unpack_from("<I", data)
    place = 4 + size
    small, lengths = load(data[4:place])
    texts = {}
    for name, length in lengths:
        texts[name] = data[place : place + length]
        place += length
    return small, texts


def prompt_fields(prompt: PreparedPrompt) -> list[Any]:
    """Before it has a constraint."""
    ids = array("i", prompt.ids).tobytes()
    return [ids, prompt.sampling, prompt.stops, prompt.tools, prompt.first_call, prompt.parallel]


def prompt_of(fields: list[Any]) -> PreparedPrompt:
    data, sampling, stops, tools, first_call, parallel = fields
    ids = array("i")
    ids.frombytes(data)
    return PreparedPrompt(ids, sampling, tuple(stops), tuple(tools), first_call, parallel)


def encode_error(error: ServingError) -> bytes:
    return dump([type(error).__name__, error.detail, error.field])


def decode_error(data: bytes | memoryview) -> ServingError:
    kind, detail, path = load(data)
    return _kinds().get(kind, Internal)(detail, field=path)


def _kinds() -> dict[str, type[ServingError]]:
    """Every leaf by its class, those of other parts too: they share codes with core's."""
    return {kind.__name__: kind for kind in _below(ServingError)}


def _below(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
