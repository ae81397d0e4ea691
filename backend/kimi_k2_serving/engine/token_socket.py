"""Sends token ids to the frontends and to postprocess on this machine, over a unix socket that the host owns.

Only processes of this user can connect: the socket lies in a private directory, and the peer's user id is checked. A
reader first gets a Claim, a secret that can't be guessed. The ids of a request that names the claim are written to that
connection and to no other. Its reader may abort the request. Postprocess learns of a request only from its first ids,
so it asks for the further ones. A reader never delays the host: data that it does not read is buffered, and a reader
that reads nothing for `patience` seconds, or lags behind by more than BACKLOG_BYTES, is disconnected.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

from kimi_k2_serving.engine import linux, wire

logger = logging.getLogger(__name__)

BACKLOG_BYTES = 16 * 2**20
TOKEN_BYTES = 16


class TokenSocket:
    """Calls `aborted(reader, uid)` when a reader aborts a request, `asked(reader, uid)` when it asks for one's ids, and
    `lost(reader)` when it is gone. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        patience: float,
        aborted: Callable[[ReaderConnection, str], None],
        asked: Callable[[ReaderConnection, str], None],
        lost: Callable[[ReaderConnection], None],
        clock: Callable[[], float],
    ) -> None:
        self.patience = patience
        self.aborted = aborted
        self.asked = asked
        self.clock = clock
        self._lost = lost
        self._readers: dict[str, ReaderConnection] = {}
        self._server: asyncio.Server | None = None

    async def open(self, path: Path) -> None:
        linux.private_directory(path.parent)
        listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before the engine serves
        listener.bind(str(path))
        listener.setblocking(False)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: ReaderConnection(self), sock=listener
        )

    def reader(self, token: str) -> ReaderConnection | None:
        """The connected reader with this claim."""
        return self._readers.get(token)

    def drop_stalled(self) -> None:
        """Disconnect the readers that have read nothing for too long. Call it often."""
        for reader in list(self._readers.values()):
            reader.drop_stalled()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for reader in list(self._readers.values()):
            reader.drop()

    def joined(self, reader: ReaderConnection) -> None:
        self._readers[reader.token] = reader

    def left(self, reader: ReaderConnection) -> None:
        if self._readers.pop(reader.token, None) is not None:
            self._lost(reader)


class ReaderConnection(asyncio.Protocol):
    """One connection."""

    def __init__(self, owner: TokenSocket) -> None:
        self.token = secrets.token_hex(TOKEN_BYTES)
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._frames = wire.FrameReader(wire.FromReader)
        self._written = 0
        # The number of bytes that the kernel has taken, and the last time when it took some or had taken all.
        self._taken = 0
        self._moved = owner.clock()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are no instances of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if peer_user(transport.get_extra_info("socket")) != os.geteuid():
            self.drop()
            return
        self._owner.joined(self)
        self.write(wire.frame(wire.Claim(self.token)))

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except ValueError:
            self.drop()
            return
        for message in messages:
            match message:
                case wire.Abort(uid=uid):
                    self._owner.aborted(self, uid)
                case wire.Follow(uid=uid):
                    self._owner.asked(self, uid)
                case _:
                    pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.left(self)

    def write(self, data: bytes) -> None:
        """Never blocks. Data for a reader that is gone is dropped."""
        assert self._transport is not None
        self._transport.write(data)
        self._written += len(data)
        if self._transport.get_write_buffer_size() > BACKLOG_BYTES:
            logger.warning("a reader lags behind by too much and is disconnected")
            self.drop()

    def drop_stalled(self) -> None:
        assert self._transport is not None
        waiting = self._transport.get_write_buffer_size()
        taken, now = self._written - waiting, self._owner.clock()
        if not waiting or taken != self._taken:
            self._taken, self._moved = taken, now
        elif now - self._moved > self._owner.patience:
            logger.warning("a reader has read nothing for %g s and is disconnected", self._owner.patience)
            self.drop()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def peer_user(connection: socket.socket) -> int:
    """The user id of the process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
