"""How postprocess tells the engine model to stop a generation: a datagram socket in the runtime directory (0700).

Triton marks neither the engine's step nor its request as cancelled inside an ensemble; only postprocess notices. A
datagram is one uid. Sending never blocks and never fails loudly: a lost abort costs tokens, not correctness.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

NAME = "abort.sock"


class AbortReceiver(asyncio.DatagramProtocol):
    """`abort(uid)` is called on the loop that `open` ran on."""

    def __init__(self, runtime: Path, abort: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._abort = abort
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        path = prepared(self._runtime)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(path))
        listener.setblocking(False)
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=listener)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._abort(data.decode("utf-8", "replace"))

    def close(self) -> None:
        """Remove the socket, and the directory if nothing else is in it."""
        if self._transport is not None:
            self._transport.close()
        (self._runtime / NAME).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._runtime.rmdir()


def prepared(runtime: Path) -> Path:
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = runtime / NAME
    path.unlink(missing_ok=True)
    return path


class AbortSender:
    def __init__(self, runtime: Path) -> None:
        self._path = str(runtime / NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def abort(self, uid: str) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendto(uid.encode(), self._path)

    def close(self) -> None:
        self._socket.close()
