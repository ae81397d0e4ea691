"""The engine's present state, for the page: whether it accepts requests, how many run and wait, how full its cache is.

The numbers are those of Triton's metrics page. If that can't be read, they are unknown, but the answer still says
whether the engine is ready. Any number of pages may ask, because the engine is asked at most once in `FRESH_SECONDS`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.frontend.port import Health

FRESH_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """`running` and `queued` are requests, `kv_usage` is a share of 0 to 1. None: not known."""

    running: int | None = None
    queued: int | None = None
    kv_usage: float | None = None
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    health: Health
    load: EngineLoad

    def document(self) -> Json:
        return {"ready": self.health.ready, "reason": self.health.reason, **asdict(self.load)}


class TritonMetrics:
    """Reads one engine model's series from Triton's metrics page at `address` (HOST:PORT)."""

    def __init__(self, address: str, model: str, *, http: httpx.AsyncClient | None = None) -> None:
        self._url = f"http://{address}/metrics"
        self._model = model
        self._http = http or httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)

    async def load(self) -> EngineLoad:
        """The load of the engine. Never raises."""
        try:
            answer = await self._http.get(self._url)
            return read_load(answer.text, self._model) if answer.status_code == 200 else EngineLoad()
        except (httpx.HTTPError, ValueError):
            return EngineLoad()

    async def close(self) -> None:
        await self._http.aclose()


def read_load(page: str, model: str) -> EngineLoad:
    """Read the load from a metrics page. Raises ValueError if `page` is no Prometheus text. Prometheus's parser appends
    `_total` to the names of counters.
    """
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("model") == model
    }

    def whole(*names: str) -> int | None:
        found = [round(values[name]) for name in names if name in values]
        return sum(found) if found else None

    return EngineLoad(
        running=whole("sglang:num_running_reqs"),
        queued=whole("sglang:num_queue_reqs", "sglang_backend:waiting_requests"),
        kv_usage=values.get("sglang:token_usage"),
        restarts=whole("sglang_backend:engine_restarts_total"),
    )


async def unknown() -> EngineLoad:
    return EngineLoad()


class EngineWatch:
    """Asks for `health` and `load` together. All calls share the answer while it is fresh."""

    def __init__(
        self,
        health: Callable[[], Awaitable[Health]],
        load: Callable[[], Awaitable[EngineLoad]] = unknown,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health
        self._load = load
        self._clock = clock
        self._lock = asyncio.Lock()
        self._latest: tuple[float, Status] | None = None

    async def status(self) -> Status:
        async with self._lock:
            if self._latest is None or self._clock() - self._latest[0] >= FRESH_SECONDS:
                health, load = await asyncio.gather(self._health(), self._load())
                self._latest = (self._clock(), Status(health, load))
            return self._latest[1]
