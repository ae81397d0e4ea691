"""How postprocess tells the engine model to stop a generation: datagram sockets in the runtime directory (0700).

Triton marks neither the engine's step nor its request as cancelled inside an ensemble; only postprocess notices. A
datagram is one uid. Every engine model under one Triton has a socket of its own there and is told every uid: uids are
unique, and whoever does not know one ignores it. Sending never blocks and never fails loudly: a lost abort costs
tokens, not correctness.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

from kimi_k2_serving.engine import linux

SUFFIX = ".abort"


def socket_path(runtime: Path, model: str) -> Path:
    """A model's name may be longer than a unix socket's address can hold."""
    return runtime / (hashlib.sha256(model.encode()).hexdigest()[:16] + SUFFIX)


class AbortReceiver(asyncio.DatagramProtocol):
    """`abort(uid)` is called on the loop that `open` ran on; `model` is the engine model's name."""

    def __init__(self, runtime: Path, model: str, abort: Callable[[str], None]) -> None:
        self._path = socket_path(runtime, model)
        self._abort = abort
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        linux.private_directory(self._path.parent)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(self._path))
        listener.setblocking(False)
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=listener)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._abort(data.decode("utf-8", "replace"))

    def close(self) -> None:
        """Remove the socket, and the directory if nothing else is in it."""
        if self._transport is not None:
            self._transport.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()


class AbortSender:
    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def abort(self, uid: str) -> None:
        for path in self._runtime.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                self._socket.sendto(uid.encode(), str(path))

    def close(self) -> None:
        self._socket.close()
