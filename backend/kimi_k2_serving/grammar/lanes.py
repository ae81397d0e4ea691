"""The order in which schemas are compiled: cheap before expensive, and expensive ones never in all lanes.

The cost of a schema is not known before it is compiled, so it is guessed from its text. A job is due at its arrival
plus that guess, so it cannot wait for ever behind cheaper ones that keep arriving. The engine compiles the same grammar
again; by then the cost is known, and the grammar's text says so. Thread-safe.
"""

from __future__ import annotations

import heapq
import itertools
import json
import threading
import time
from collections.abc import Callable

# Seconds. A job that costs more is expensive; one lane is always left to the other jobs.
EXPENSIVE = 0.2
# A grammar's first line, a comment in its dialect, if compiling it was not expensive.
_CHEAP = "# cheap\n"
_GRAMMAR = '"grammar": "'
_HEAD = 200
_BYTES_PER_SECOND = 40_000
_WORDS = ((b'"pattern', 0.25), (b'Length"', 0.05), (b'"multipleOf"', 0.05), (b'"not"', 0.05), (b'"contains"', 0.05))


def guess(job: bytes) -> float:
    """Roughly how many seconds of processor time the job takes."""
    return len(job) / _BYTES_PER_SECOND + sum(seconds * job.count(word) for word, seconds in _WORDS)


def marked(tag: str, seconds: float) -> str:
    """The structural tag, marked for `known` if its grammar compiled in few `seconds`."""
    if seconds > EXPENSIVE:
        return tag
    return tag.replace(_GRAMMAR, _GRAMMAR + json.dumps(_CHEAP)[1:-1], 1)


def known(tag: str) -> float:
    """Roughly how many seconds of processor time the tag's grammar takes; without a mark it counts as expensive."""
    return 0.0 if _GRAMMAR + json.dumps(_CHEAP)[1:-1] in tag[:_HEAD] else 10 * EXPENSIVE


class CompileLanes:
    """Threads that run submitted jobs. They start with the first job, and each calls `prepare` first."""

    def __init__(
        self,
        count: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._prepare = prepare
        self._max_expensive = max(1, count - 1)
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._expensive = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"grammar_{i}", daemon=True) for i in range(count)]

    def submit(self, cost: float, work: Callable[[], None]) -> None:
        """`work` must not raise. Raises RuntimeError, and drops the work, if no thread can be started."""
        with self._changed:
            if self._closed:
                return
            self._start()
            item = (self._clock() + cost, next(self._numbers), cost > EXPENSIVE, work)
            heapq.heappush(self._waiting, item)
            self._changed.notify_all()

    def _start(self) -> None:
        """One running thread is enough; missing ones are started with the next job."""
        for thread in self._threads:
            if thread.ident is None:
                try:
                    thread.start()
                except RuntimeError:
                    if not any(each.is_alive() for each in self._threads):
                        raise

    def shutdown(self) -> None:
        """Drop the jobs that have not begun."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _run(self) -> None:
        self._prepare()
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
        """The index of the job that is due first among those that may begin, or None. Called with the lock held."""
        full = self._expensive >= self._max_expensive
        places = [i for i, (_, _, expensive, _) in enumerate(self._waiting) if not (expensive and full)]
        return min(places, key=lambda i: self._waiting[i][:2], default=None)
