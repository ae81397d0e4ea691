"""Encodes what a process that reads requests sends to the one that serves them: prompts, errors, and large texts.

Every ServingError arrives as an object of the same class. The side that serves does not copy the texts.
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
    """JSON text by msgspec, which is fast: a grammar has megabytes, and encoding it holds the GIL."""
    return msgspec.json.encode(value).decode()


def pack(small: Any, texts: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """The pieces of a message; `unpack` takes their concatenation."""
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
    """The fields of a prompt that has no constraint yet."""
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
    """Every error class by its name. Codes would not do: errors that other packages define share them with core's."""
    return {kind.__name__: kind for kind in _below(ServingError)}


def _below(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
