"""Sends aborts and receipts from postprocess to the engine models, over datagram sockets in the runtime directory
(0700).

Inside an ensemble Triton does not mark the engine's request as cancelled; only postprocess sees that the client left.
Triton also does not say how many of the engine's responses wait for postprocess. So postprocess confirms each response
that it has taken: this is a receipt. A datagram is either the uid to abort, or a line break followed by the uids of the
responses taken, one on each line. No uid has a line break. Every engine model under one Triton has its own socket there
and gets every uid. Uids are unique, and a model ignores those that it does not know. Sending never blocks and hides its
errors: a lost abort costs tokens, a lost receipt costs a moment, and neither costs correctness.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kimi_k2_serving.engine import linux

SUFFIX = ".abort"
# Precedes each uid whose response was taken.
RECEIPT = "\n"
# When this many receipts wait for a full socket, they are dropped: their requests go on without them after a moment.
WAITING_RECEIPTS = 1024
# The list of the engine models' sockets is read again after this time. Reading it takes as long as sending several
# receipts.
LOOK_SECONDS = 1.0
# The suffix of the socket on which the host sends ids to frontends: see token_socket.
TOKENS = ".tokens"


def socket_path(runtime: Path, model: str, suffix: str = SUFFIX) -> Path:
    """The socket's path. It has a hash of the model's name: a name may be too long for a unix socket's address."""
    return runtime / (hashlib.sha256(model.encode()).hexdigest()[:16] + suffix)


class AbortReceiver(asyncio.DatagramProtocol):
    """Calls `abort(uid)` and `taken(uid)` on the loop that `open` ran on. `model` is the engine model's name."""

    def __init__(
        self, runtime: Path, model: str, abort: Callable[[str], None], taken: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path = socket_path(runtime, model)
        self._abort = abort
        self._taken = taken
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        linux.private_directory(self._path.parent)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(self._path))
        listener.setblocking(False)
        self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=listener)

    def datagram_received(self, data: bytes, addr: object) -> None:
        first, *taken = data.decode("utf-8", "replace").split(RECEIPT)
        if first:
            self._abort(first)
        for uid in taken:
            self._taken(uid)

    def close(self) -> None:
        """Remove the socket, and the directory if it is then empty."""
        if self._transport is not None:
            self._transport.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path.parent.rmdir()


class AbortSender:
    """Use `confirm` on one thread, `abort` on any. `clock` is monotonic, in seconds."""

    def __init__(self, runtime: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._paths: list[str] = []
        self._looked = -math.inf
        # Receipts that no socket has taken yet.
        self.waiting: list[str] = []

    def abort(self, uid: str) -> None:
        for path in self._runtime.glob(f"*{SUFFIX}"):
            self._send(uid, str(path))

    def confirm(self, uids: Sequence[str]) -> None:
        """Report that a response of each of these uids was taken. A receipt that finds a full socket is sent with the
        next ones.
        """
        self.waiting += uids
        if not self.waiting:
            return
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._paths = [str(path) for path in self._runtime.glob(f"*{SUFFIX}")]
            self._looked = self._clock()
        text = "".join(RECEIPT + uid for uid in self.waiting)
        full = False
        for path in self._paths:
            full = not self._send(text, path) or full
        if not full or len(self.waiting) >= WAITING_RECEIPTS:
            self.waiting.clear()

    def _send(self, text: str, path: str) -> bool:
        """Send one datagram. False if the socket is full."""
        try:
            self._socket.sendto(text.encode(), path)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self._socket.close()
