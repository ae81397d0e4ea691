"""Threads that send responses to Triton. Their queue has no futures, because each hand-over delays a token."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from kimi_k2_serving.triton import journal

Work = Callable[[], None]


class Senders:
    """`submit` never blocks; any thread may call it."""

    def __init__(self, threads: int) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-send-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> None:
        self._queue.put(work)

    def shutdown(self) -> None:
        """End each thread after the work that was submitted before. Does not wait."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                journal.error(f"sending failed: {type(error).__name__}: {error}")
