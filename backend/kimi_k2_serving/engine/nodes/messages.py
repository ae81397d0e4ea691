"""The messages between rank 0 and the workers, over one TCP connection for each worker.

A frame is a 4-byte big-endian length and a msgpack array, as in `wire`. A worker sends Hello first. Rank 0 answers
Refused, or Pulses; both sides then send a Pulse every PULSE_SECONDS, so that silence means a lost machine or network.
The connection has no authentication, like those of torch and NCCL beside it: the network must be private.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from kimi_k2_serving.core.limits import NODE_MESSAGE_BYTES
from kimi_k2_serving.engine.wire import HEADER

PULSE_SECONDS = 1.0


class Hello(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`software`: the versions, `checkpoint`: a hash of its small files; both must be rank 0's. `preset` too, because
    the environment of the engine's processes comes from the worker's own copy of it.
    """

    node_rank: int
    preset: str
    software: str
    checkpoint: str


class Refused(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The worker does not fit this engine, and why: it ends."""

    why: str


class Begin(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Run a rank of this start. `server_args` are rank 0's own, whose paths and node rank the worker replaces.
    `restart`: config.Restart.
    """

    generation: int
    server_args: dict[str, Any]
    restart: str = "in_place"


class Halt(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The engine of that start is over: end its rank."""

    generation: int


class Pulse(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """`generation`: the start that the sender has processes of, 0 for none."""

    generation: int


class Lost(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A process of the worker's rank of this start has ended by itself. The others are being ended."""

    generation: int


class Ended(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """No process of the worker's rank of this start is left."""

    generation: int


ToMeeting = Hello | Pulse | Lost | Ended
ToWorker = Refused | Begin | Halt | Pulse


def send(writer: asyncio.StreamWriter, message: ToMeeting | ToWorker) -> None:
    """Send it, or nothing if the connection is gone, which the reader notices."""
    body = msgspec.msgpack.encode(message)
    if not writer.is_closing():
        writer.write(HEADER.pack(len(body)) + body)


async def receive(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next message; None at the end of the connection, or for what is no message."""
    try:
        (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
        if length > NODE_MESSAGE_BYTES.value:
            return None
        return msgspec.msgpack.decode(await reader.readexactly(length), type=kind)
    except (OSError, EOFError, ValueError, RecursionError):
        return None
