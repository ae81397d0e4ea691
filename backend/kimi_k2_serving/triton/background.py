"""Runs background work: a pool of threads, and tasks on an event loop, run once or repeated for ever. Failures are
logged.

A failure does not end a repeating task: it is logged, and the next turn comes after the usual pause. Each task logs at
most once in LOG_SECONDS, with the number of failures that were not logged.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kimi_k2_serving.engine.pace import Pace
from kimi_k2_serving.triton import journal

LOG_SECONDS = 60.0


def thread_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool with all of its threads from the start, so that a growing number of threads is always a leak."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    everybody = threading.Barrier(threads)
    for _ in range(threads):
        pool.submit(everybody.wait)
    return pool


class Complaints:
    """Logs failures, at most one per subject in LOG_SECONDS. `clock` is monotonic, in seconds. Any thread may call it;
    at worst two threads both log.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def about(self, what: str, error: BaseException) -> None:
        now = self._clock()
        if now - self._logged_at.get(what, -LOG_SECONDS) < LOG_SECONDS:
            self._suppressed[what] = self._suppressed.get(what, 0) + 1
            return
        self._logged_at[what] = now
        suppressed = self._suppressed.pop(what, 0)
        more = f" (and {suppressed} times more since the last message)" if suppressed else ""
        journal.error(f"{what} failed: {type(error).__name__}: {error}{more}")


class Background:
    """Call all methods on `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, complaints: Complaints | None = None) -> None:
        self._loop = loop
        self._complaints = complaints or Complaints()
        self._tasks: set[asyncio.Task[None]] = set()

    def once(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Start a task that ends by itself; an exception that it raises is logged."""
        task = self._loop.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def forever(self, turn: Callable[[], Awaitable[None]], what: str, pause: float, pace: Pace | None = None) -> None:
        """Repeat `turn`, `pause` seconds after its end. With `pace`, the next turn after a success also waits for
        `pace.rest`.
        """
        self.once(self._turns(turn, what, pause, pace), what)

    def cancel(self) -> None:
        """Cancel every task except the calling one."""
        for task in self._tasks - {asyncio.current_task(self._loop)}:
            task.cancel()

    async def close(self) -> None:
        """Cancel every task except the calling one, and wait for them."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _turns(self, turn: Callable[[], Awaitable[None]], what: str, pause: float, pace: Pace | None) -> None:
        while True:
            failed = False
            try:
                await turn()
            except Exception as error:
                failed = True
                self._complaints.about(what, error)
            await asyncio.sleep(pause)
            if pace is not None and not failed:
                await pace.rest()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complaints.about(task.get_name(), error)
