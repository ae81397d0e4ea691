"""Limits on connections: a request's head has a deadline, and clients without a key can't use up the descriptors.

A connection is proven once a request on it had a valid API key. The number of unproven connections is bounded. Over the
bound, a new one closes the oldest that waits for a request. If the machine runs out of descriptors, the log says so
once a minute.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kimi_k2_serving.core.limits import HEAD_SECONDS

logger = logging.getLogger(__name__)

# Descriptors kept free for everything except client connections: the engine, the readers, the grammar worker, files.
RESERVED = 64
FEWEST = 8
LOG_SECONDS = 60.0
# The entry of the ASGI scope that a route calls after it has accepted a key.
PROVEN = "kimi_k2.proven"


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit, at most 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most() -> int:
    """The maximum number of client connections."""
    return max(FEWEST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED)


class Connection(H11Protocol):
    """uvicorn's connection, with a deadline for each request's head and a bound on unproven connections."""

    _head: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        inner = self.app

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scope[PROVEN] = self._prove
            await inner(scope, receive, self._shortened(scope, send))

        self.app = application

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        # Half of the connections are for clients with a key. If no keys are set, every request counts as having one.
        _unproven[self] = None
        if len(_unproven) > most() // 2 or len(self.connections) > most():
            _full.say("too many connections; closing the oldest one that waits without a request")
            oldest = next((each for each in _unproven if each._awaits_head), self)
            oldest.transport.abort()
            self.connections.discard(oldest)
            _unproven.pop(oldest, None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        _unproven.pop(self, None)
        super().connection_lost(exc)

    @property
    def _awaits_head(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _shortened(self, scope: Scope, send: Send) -> Send:
        """A faster `send`: it writes the pieces of a stream to the socket as chunks of HTTP/1.1, without h11, which
        would check each piece.
        """
        chunked = False

        async def shortened(message: Message) -> None:
            nonlocal chunked
            if chunked and message.get("more_body"):
                if self.flow.write_paused:
                    await self.flow.drain()
                # A keep-alive frame may have waited until after the stream's end. Sent then, it would corrupt the
                # connection's next response.
                if chunked and (body := message["body"]):
                    self._write_chunk(body)
                return
            chunked = False
            if message["type"] == "http.response.start":
                sized = any(name == b"content-length" for name, _ in message["headers"])
                chunked = scope["http_version"] == "1.1" and scope["method"] != "HEAD" and not sized
            await send(message)

        return shortened

    def _write_chunk(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))

    def _prove(self) -> None:
        _unproven.pop(self, None)

    def _watch(self) -> None:
        if not self._awaits_head:
            self._stop()
        elif self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_SECONDS.value, self._late)

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        if self._awaits_head:
            self.transport.close()


# Oldest first. A dict, so that adding and removing a connection take constant time.
_unproven: dict[Connection, None] = {}


class OncePerMinute:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def say(self, words: str) -> None:
        now = self._clock()
        if self._last is None or now - self._last >= LOG_SECONDS:
            self._last = now
            logger.warning(words)


_full = OncePerMinute()
_exhausted = OncePerMinute()


def watch_accepts(loop: asyncio.AbstractEventLoop) -> None:
    """Log once a minute that descriptors run out. asyncio reports each `accept` without a free descriptor and retries
    in a second.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            _exhausted.say("no descriptor is left for another connection")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
