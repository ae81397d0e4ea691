"""`lane.ReaderLanes` for a process without an event loop: it gets one, on a thread of its own. Thread-safe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from kimi_k2_serving.core.errors import ShuttingDown
from kimi_k2_serving.reading.lane import STOPPING, ReaderLanes

# This is enough: a reader is killed, not asked to end.
CLOSE_SECONDS = 5.0


class LoopedLanes:
    """Its thread has to live as long as the readers, because the kernel ends them with the thread that started them."""

    def __init__(self, lanes: ReaderLanes) -> None:
        self._lanes = lanes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="readers-loop", daemon=True)
        self._lock = threading.Lock()
        self._closed = False
        self._thread.start()
        asyncio.run_coroutine_threadsafe(lanes.open(), self._loop).result()

    def ask(self, name: str, pieces: Sequence[bytes]) -> Future[memoryview]:
        """The future raises what `ReaderLanes.ask` does; this method itself raises nothing."""
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(self._lanes.ask(name, pieces), self._loop)
        refused: Future[memoryview] = Future()
        refused.set_exception(ShuttingDown(STOPPING))
        return refused

    def close(self) -> None:
        """Requests that still wait fail with ShuttingDown. The second and later calls do nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        asyncio.run_coroutine_threadsafe(self._lanes.close(), self._loop).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()
