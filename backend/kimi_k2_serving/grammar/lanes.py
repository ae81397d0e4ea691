"""Which unknown schemas are worked on next: cheap before expensive, and expensive ones never in all lanes.

What a schema costs is not known before it is compiled, so it is guessed from its text. A job is due when it came plus
its guess, so none waits for ever behind cheaper ones that keep coming. Thread-safe.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

# A guess beyond this is expensive: one lane is always left to the others.
EXPENSIVE = 0.2
_BYTES_PER_SECOND = 40_000
_WORDS = ((b'"pattern', 0.25), (b'Length"', 0.05), (b'"multipleOf"', 0.05), (b'"not"', 0.05), (b'"contains"', 0.05))


def guess(job: bytes) -> float:
    """Seconds of a processor, roughly."""
    return len(job) / _BYTES_PER_SECOND + sum(seconds * job.count(word) for word, seconds in _WORDS)


class Lanes:
    """Threads that run what is submitted; they start with the first job."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._most_expensive = max(1, count - 1)
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._expensive = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"grammar_{i}", daemon=True) for i in range(count)]

    def submit(self, cost: float, work: Callable[[], None]) -> None:
        """`work` raises nothing. Raises RuntimeError, and forgets the work, where no thread is to be had."""
        with self._changed:
            if self._closed:
                return
            self._start()
            item = (self._clock() + cost, next(self._numbers), cost > EXPENSIVE, work)
            heapq.heappush(self._waiting, item)
            self._changed.notify_all()

    def _start(self) -> None:
        """One lane is enough to go on; those that are missing are tried again with the next job."""
        for thread in self._threads:
            if thread.ident is None:
                try:
                    thread.start()
                except RuntimeError:
                    if not any(each.is_alive() for each in self._threads):
                        raise

    def shutdown(self) -> None:
        """What has not begun never does."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                place = self._next()
                if place is None:
                    return
                _, _, expensive, work = self._waiting.pop(place)
                heapq.heapify(self._waiting)
                self._expensive += expensive
            try:
                work()
            finally:
                with self._changed:
                    self._expensive -= expensive
                    self._changed.notify_all()

    def _next(self) -> int | None:
        """Where the job that is due first stands among those that may begin. Called with the lock held."""
        full = self._expensive >= self._most_expensive
        places = [i for i, (_, _, expensive, _) in enumerate(self._waiting) if not (expensive and full)]
        return min(places, key=lambda i: self._waiting[i][:2], default=None)
