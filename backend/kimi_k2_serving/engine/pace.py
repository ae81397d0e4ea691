"""Pauses periodic work while there is nothing to do, and resumes it at once when there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

# The longest pause. Work that `wake` does not announce is noticed after this time at the latest.
REST_SECONDS = 1.0
# There is no pause until this long after the last work: the scheduler's last state and the last counts are still to
# come.
LINGER_SECONDS = 1.0


class Pace:
    """Call all methods on one event loop. `working` says whether there is work now; `wake` announces new work."""

    def __init__(self, working: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._working = working
        self._clock = clock
        self._awake_until = 0.0
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._awake_until = self._clock() + LINGER_SECONDS
        self._woken.set()

    async def rest(self) -> None:
        """Return at once if there is work or was some lately, else at the next `wake`, or after REST_SECONDS."""
        if self._working():
            self._awake_until = self._clock() + LINGER_SECONDS
        if self._clock() < self._awake_until:
            return
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                await self._woken.wait()
