"""Keeps streams alive and abandons stalled responses, with one timer for all responses of a process instead of one for
each piece.

A stream that has sent nothing for `keep_alive` seconds sends its keep-alive frame. A response whose client has accepted
nothing for `stalled` seconds is abandoned. The timer runs only while there are responses.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

# How late a keep-alive or an abandonment may be: a fraction of its interval, but at most this many seconds.
LATE, LATEST = 0.1, 1.0


class Timed(Protocol):
    """A response. Times are monotonic; `sending_since` is None while nothing is being sent."""

    sending_since: float | None
    last_sent: float

    def abandon(self) -> None: ...

    def keep_alive(self) -> None:
        """Start to send a keep-alive frame, if this is a stream."""
        ...


class ResponseTimer:
    """Use it on one event loop."""

    def __init__(self, *, keep_alive: float, stalled: float) -> None:
        self._keep_alive = keep_alive
        self._stalled = stalled
        self._interval = min(LATE * min(keep_alive, stalled), LATEST)
        self._responses: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The responses that are under way."""
        return len(self._responses)

    def add(self, response: Timed) -> None:
        self._responses.add(response)
        if self._timer is None:
            self._start()

    def remove(self, response: Timed) -> None:
        self._responses.discard(response)

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for response in list(self._responses):
            since = response.sending_since
            if since is None:
                if now - response.last_sent >= self._keep_alive:
                    response.keep_alive()
            elif now - since >= self._stalled:
                response.abandon()
        if self._responses:
            self._start()
