"""Threads that send responses to Triton, for the engine model and for postprocess. Their queue has no futures, because
each hand-over delays a token.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from kimi_k2_serving.triton import journal

Work = Callable[[], None]


class Workers(Protocol):
    """Runs what is submitted, on a thread of its own."""

    def submit(self, work: Callable[[], None], /) -> object: ...


class Senders:
    """`submit` never blocks; any thread may call it."""

    def __init__(self, threads: int, name: str) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        self._queue.put(work)

    def shutdown(self, wait: float = 0.0) -> None:
        """End each thread after the work that was submitted before. Wait for that at most `wait` seconds."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + wait
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                journal.error(f"sending failed: {type(error).__name__}: {error}")
