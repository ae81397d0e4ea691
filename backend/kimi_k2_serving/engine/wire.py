"""The messages between the Triton stub and the engine's host process, over one inherited socket pair.

A frame is a 4-byte big-endian length and a msgpack array (msgspec, no pickle): the type's name, then the fields in
order. The stub sends Start first, then Submit and Abort at any time. The host answers Started once, then for each
Submit any number of Outputs that end with one last Output or one Failed, and a Beat every BEAT_SECONDS while it has
work (less often without: `pace`). When the stream ends in either direction, the other side is gone. A message that
can't be sent or read ends only the request that it names, because the length prefix still leads to the next frame, and
the uid is the first field. A reader of `token_socket` gets a Claim and then Outputs; it sends Abort and Follow.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from typing import Any

import msgspec

from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.engine.totals import FinishedRequest

HEADER = struct.Struct(">I")
# The largest size of a frame, checked by `frame`. The largest real ones are a prompt of 262,144 ids of up to 5 bytes
# each with a grammar, and an output of 256 ids with 21 logprobs each.
FRAME_BYTES = 64 * 2**20
BEAT_SECONDS = 0.1
# The status of a Failed whose reader is gone.
READER_GONE = 499


# A log-probability, its token id, and the most probable alternatives.
Logprobs = tuple[float, int, list[tuple[float, int]]]


class Start(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`server_args` are SGLang's ServerArgs by name. `token_socket`: the path for the readers' socket, "" for none.
    `reader_seconds`: a reader that reads nothing for this long is disconnected. `warm_up`: whether to compile and
    cache, before Started, what the first requests need.
    """

    server_args: dict[str, Any]
    token_socket: str = ""
    reader_seconds: float = 30.0
    warm_up: bool = True


class Submit(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`text`: whether outputs need their text. `reader`: the claim of the reader that gets the ids, "" for none.
    `prompt_logprobs`: whether the first Output has the log-probabilities of the prompt. `trace`: a W3C traceparent, ""
    for none. `adapter`: the LoRA adapter's name, "" for none. `relayed`: whether a reader may ask for the ids later
    (`Follow`).
    """

    uid: str
    input_ids: list[int]
    sampling: dict[str, Any]
    top_logprobs: int | None
    priority: int | None
    cache_salt: str | None = None
    text: bool = True
    reader: str = ""
    prompt_logprobs: bool = False
    trace: str = ""
    adapter: str = ""
    relayed: bool = False


class Abort(msgspec.Struct, tag=True, array_like=True, frozen=True):
    uid: str


class Follow(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A reader asks for the further ids of a running request. Ignored unless its Submit says `relayed`."""

    uid: str


class Started(msgspec.Struct, tag=True, array_like=True, frozen=True):
    engine: str
    context_length: int
    prompt_tokens: int
    kv_capacity: int
    vocab_size: int
    min_p: bool = True


class Output(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """New ids of one request. `logprobs` holds (logprob, id, [(logprob, id), ...]) per id. `end` is "", stop, length or
    abort; `completion_tokens` counts all ids of the request so far. `index`: the choice. `prompt_logprobs`: as
    `logprobs`, for the prompt's second token and all after it. If the ids go to a reader, the stub gets only the last
    Output, without ids.
    """

    uid: str
    ids: list[int]
    completion_tokens: int
    cached_tokens: int = 0
    text: str = ""
    end: str = ""
    matched: str | int | list[int] | None = None
    logprobs: list[Logprobs] = []
    index: int = 0
    prompt_logprobs: list[Logprobs] = []


class Relayed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The stub has got all ids of this request up to here. All further ones go to the reader that asked for them, and
    the stub gets only the last Output, without ids.
    """

    uid: str


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`status` is SGLang's HTTP status; `log` is a text for the log only, never for the client."""

    uid: str
    status: int
    log: str


class Beat(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The state that the scheduler last published, at `published` by its own clock. `busy`: it has requests, including
    a partly prefilled long prompt, which `running` and `queued` do not count. `read`: the requests whose ids went to a
    reader since the last Beat; `generated` and `finished`: the tokens and the ended requests since then. `used` of
    `capacity` tokens of the cache are taken.
    """

    published: float
    busy: bool
    running: int
    queued: int
    kv_usage: float
    read: list[str] = []
    generated: int = 0
    finished: list[FinishedRequest] = []
    used: int = 0
    capacity: int = 0


class Claim(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The first message to a reader: the secret by which a Submit names it."""

    token: str


class Unreadable(msgspec.Struct, frozen=True):
    """Stands for a received frame that is no valid message. It is never sent. `uid` is the uid in the frame, "" if
    there is none.
    """

    uid: str
    problem: str


class Unsendable(Exception):
    """The message can't be encoded or is larger than FRAME_BYTES."""


ToHost = Start | Submit | Abort
FromHost = Started | Output | Relayed | Failed | Beat
FromReader = Abort | Follow
ToReader = Claim | Output


def submission(generation: Generation) -> Submit:
    return Submit(
        uid=generation.uid,
        input_ids=list(generation.input_ids),
        sampling=dict(generation.sampling),
        top_logprobs=generation.top_logprobs,
        priority=generation.priority,
        cache_salt=generation.cache_salt,
        text=generation.text,
        reader=generation.reader,
        prompt_logprobs=generation.prompt_logprobs,
        trace=generation.trace,
        adapter=generation.adapter,
        relayed=generation.relayed,
    )


def frame(message: ToHost | FromHost | ToReader | FromReader) -> bytes:
    """The bytes of a message. Raises Unsendable."""
    try:
        body = msgspec.msgpack.encode(message)
    except (ValueError, TypeError, OverflowError) as error:
        raise Unsendable(f"{type(message).__name__}: {type(error).__name__}: {error}") from None
    if len(body) > FRAME_BYTES:
        raise Unsendable(f"{type(message).__name__} of {len(body)} bytes exceeds the frame limit of {FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Bytes in, messages out: `feed(data)` returns the complete messages. Each byte is copied at most twice."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """A frame that is no valid message becomes an Unreadable. Raises ValueError for a length over FRAME_BYTES:
        only a foreign peer sends one.
        """
        self._buffer += data
        messages = []
        offset = 0
        while len(self._buffer) - offset >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer, offset)
            if length > FRAME_BYTES:
                raise ValueError("frame too long")
            end = offset + HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._read(memoryview(self._buffer)[offset + HEADER.size : end].tobytes()))
            offset = end
        del self._buffer[:offset]
        return messages

    def _read(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except (ValueError, RecursionError) as error:
            return Unreadable(named_uid(body), f"{type(error).__name__}: {error}")


def named_uid(body: bytes) -> str:
    """The uid in the body of an invalid message, "" if there is none."""
    try:
        fields = msgspec.msgpack.decode(body)
    except (ValueError, RecursionError):
        return ""
    uid = fields[1] if isinstance(fields, list) and len(fields) > 1 else None
    return uid if isinstance(uid, str) else ""


async def messages(reader: asyncio.StreamReader, kind: Any) -> Any:
    """Yield messages until the peer closes."""
    frames = FrameReader(kind)
    while data := await reader.read(1 << 18):
        for message in frames.feed(data):
            yield message


def write_frames(writer: asyncio.StreamWriter, outgoing: Iterable[ToHost | FromHost]) -> None:
    """Send the messages. If it raises Unsendable, it has sent none of them."""
    writer.write(b"".join(map(frame, outgoing)))
