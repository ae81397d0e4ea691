"""`lane.Lanes` for a process without an event loop: one on a thread of its own, asked from any other. Thread-safe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from kimi_k2_serving.core.errors import ShuttingDown
from kimi_k2_serving.reading.lane import STOPPING, ReaderLanes

# A reader is killed, not asked to end.
CLOSE_SECONDS = 5.0


class LoopedLanes:
    """Its thread lives as long as it does: the kernel ends the readers with it."""

    def __init__(self, lanes: ReaderLanes) -> None:
        self._lanes = lanes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="readers-loop", daemon=True)
        self._lock = threading.Lock()
        self._closed = False
        self._thread.start()
        asyncio.run_coroutine_threadsafe(lanes.open(), self._loop).result()

    def ask(self, name: str, pieces: Sequence[bytes]) -> Future[memoryview]:
        """Raises what `ReaderLanes.ask` does, in the future alone."""
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(self._lanes.ask(name, pieces), self._loop)
        refused: Future[memoryview] = Future()
        refused.set_exception(ShuttingDown(STOPPING))
        return refused

    def close(self) -> None:
        """Whoever still waits is told so. The second and later calls do nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        asyncio.run_coroutine_threadsafe(self._lanes.close(), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()
