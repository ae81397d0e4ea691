"""Reads token ids from the engine's token socket for postprocess (the other end: `engine/token_socket`).

Postprocess asks for the ids of an answer once it has seen the answer's first response. Without a connection, `want`
says so, and ids go on coming through Triton. A new engine model, or a restarted engine, is found by the next `want`,
at most once in LOOK_SECONDS. A thread for each connection waits in `recv`, so that an idle server does nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.abort_channel import TOKENS
from kimi_k2_serving.engine.token_socket import peer_user
from kimi_k2_serving.triton import journal

# Takes a request's uid, some of its ids, and whether they are the last.
Put = Callable[[str, Sequence[int], bool], None]
LOOK_SECONDS = 1.0
READ_BYTES = 1 << 18


class TokenFeed:
    """Calls `put(uid, ids, last)` on a thread of its own, in order. Any thread may call the methods. `clock` is
    monotonic, in seconds.
    """

    def __init__(self, runtime: Path, put: Put, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._put = put
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._connections: dict[Path, socket.socket] = {}

    def want(self, uid: str) -> bool:
        """Ask for the further ids of this request. False if no engine can be asked."""
        message = wire.frame(wire.Follow(uid))
        with self._lock:
            self._look()
            # Each engine model is asked; the others do not know the request.
            return sum(self._send(connection, message) for connection in self._connections.values()) > 0

    def _send(self, connection: socket.socket, message: bytes) -> bool:
        """Never blocks: a host that reads nothing must not hold up the answers of others. False if it was not sent."""
        try:
            sent = connection.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if sent < len(message):
                connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The host is busy, or gone: then the connection's thread sees that, too, and forgets it.
            return False
        return sent == len(message)

    def close(self) -> None:
        with self._lock:
            self._looked = math.inf
            for connection in self._connections.values():
                connection.shutdown(socket.SHUT_RDWR)

    def _look(self) -> None:
        if self._clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self._clock()
        for path in self._runtime.glob(f"*{TOKENS}"):
            if path not in self._connections:
                # If it fails, no engine listens (it has not started yet, or starts again), or there is no descriptor.
                with contextlib.suppress(OSError, RuntimeError):
                    self._connect(path)

    def _connect(self, path: Path) -> None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            if peer_user(connection) != os.geteuid():
                raise PermissionError
            thread = threading.Thread(target=self._read, args=(path, connection), name="postprocess-ids", daemon=True)
            thread.start()
        except BaseException:
            connection.close()
            raise
        self._connections[path] = connection

    def _read(self, path: Path, connection: socket.socket) -> None:
        frames = wire.FrameReader(wire.ToReader)
        try:
            while data := connection.recv(READ_BYTES):
                for message in frames.feed(data):
                    if isinstance(message, wire.Output):
                        self._put(message.uid, message.ids, bool(message.end))
                    elif isinstance(message, wire.Unreadable):
                        # The answer then misses ids, and fails when its end has come.
                        journal.error("a message on the engine's token socket could not be read")
        except (OSError, ValueError) as error:
            journal.error(f"reading the engine's token socket failed: {type(error).__name__}")
        finally:
            with self._lock:
                self._connections.pop(path, None)
            connection.close()
