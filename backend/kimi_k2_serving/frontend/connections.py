"""Connections under bounds: a request's head arrives in time, and who has shown no key can't use up the descriptors.

A connection is proven once a request on it got past the keys; until then it is one of a bounded number, of which the
oldest that only waits is closed for a new one. A machine that is out of descriptors says so in the log, once a minute.
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
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kimi_k2_serving.core.limits import HEAD_SECONDS

logger = logging.getLogger(__name__)

# Descriptors for everything that is no client's connection: the engine, the readers, the grammar's worker, files.
RESERVED = 64
FEWEST = 8
LOG_SECONDS = 60.0
# The scope's entry that a route calls when a key was good.
PROVEN = "kimi_k2.proven"


def raise_limit() -> None:
    """As many descriptors as this process may have, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most() -> int:
    """Clients' connections at once."""
    return max(FEWEST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED)


class Connection(H11Protocol):
    """uvicorn's, with a clock for the head and its place among all connections of the process."""

    _head: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        inner = self.app

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            scope[PROVEN] = self._prove
            await inner(scope, receive, send)

        self.app = application

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        # Half of the places are for those who have shown a key; without keys every request shows one.
        _unproven[self] = None
        if len(_unproven) > most() // 2 or len(self.connections) > most():
            _full.say("too many connections; the oldest that waits without a request is closed")
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


# Of this process, oldest first: nobody's connection costs more the more of them there are.
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
    """asyncio waits a second after an accept that found no descriptor, and reports every one of them."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            _exhausted.say("no descriptor is left for another connection")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
