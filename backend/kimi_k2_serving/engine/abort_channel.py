"""Sends aborts from postprocess to the engine models: datagram sockets in the runtime directory (0700).

Inside an ensemble Triton does not mark the engine's request as cancelled; only postprocess sees that the client left.
A datagram is one uid. Every engine model under one Triton has its own socket there and gets every uid: uids are unique,
and a model ignores those that it does not know. Sending never blocks and hides its errors: a lost abort costs tokens,
not correctness.
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
# The suffix of the socket on which the host sends ids to frontends: see token_socket.
TOKENS = ".tokens"


def socket_path(runtime: Path, model: str, suffix: str = SUFFIX) -> Path:
    """The socket's path has a hash of the name: a name may be too long for a unix socket's address."""
    return runtime / (hashlib.sha256(model.encode()).hexdigest()[:16] + suffix)


class AbortReceiver(asyncio.DatagramProtocol):
    """Calls `abort(uid)` on the loop that `open` ran on. `model` is the engine model's name."""

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
        """Remove the socket, and the directory if it is then empty."""
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
