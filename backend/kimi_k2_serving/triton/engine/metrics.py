"""The engine model's metrics on Triton's /metrics page: the scheduler's state under SGLang's names, ends and refusals.

Values are collected here, and `flush` writes them to the page.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from kimi_k2_serving.engine.port import Load
from kimi_k2_serving.triton.metrics_page import MetricsPage

GAUGES = {
    "sglang:num_running_reqs": "Requests in the scheduler's batch",
    "sglang:num_queue_reqs": "Requests in the scheduler's queue",
    "sglang:token_usage": "Share of the KV pool in use, 0 to 1, without what may be evicted",
    "sglang_backend:waiting_requests": "Requests that wait for admission, before the scheduler",
    "sglang_backend:in_flight_prompt_tokens": "Prompt tokens of all admitted requests",
    "sglang_backend:ready": "1 while requests are accepted, else 0: the engine is down or the server is stopping",
}
ENDED = "sglang_backend:requests"
RESTARTS = "sglang_backend:engine_restarts"
REFUSALS = "sglang_backend:refusal_seconds"
COUNTERS = {
    ENDED: "Requests by outcome: completed, aborted or an error code",
    RESTARTS: "Restarts of the engine",
    f"{REFUSALS}_bucket": "Requests refused on arrival, by the seconds from arrival to their error",
    f"{REFUSALS}_sum": "Sum of the seconds from arrival to error of requests refused on arrival",
    f"{REFUSALS}_count": "Requests refused on arrival",
}
REFUSAL_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, math.inf)


@dataclass(frozen=True, slots=True)
class Own:
    """This backend's own gauges; the scheduler's are in `Load`."""

    waiting: int
    prompt_tokens: int
    ready: bool


class EngineMetrics:
    """Call `ended` and `refused` on any thread, `flush` on one thread at a time."""

    def __init__(self, model: str) -> None:
        self._page = MetricsPage(model, gauges=GAUGES, counters=COUNTERS)
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        # The number of refusals per bucket of REFUSAL_SECONDS, not cumulative.
        self._refused = [0] * len(REFUSAL_SECONDS)
        self._refused_seconds = 0.0

    def ended(self, outcome: str) -> None:
        with self._lock:
            self._ended[outcome] += 1

    def refused(self, code: str, seconds: float) -> None:
        with self._lock:
            self._ended[code] += 1
            self._refused[bisect_left(REFUSAL_SECONDS, seconds)] += 1
            self._refused_seconds += seconds

    def flush(self, load: Load, own: Own) -> None:
        gauges = (load.running, load.queued, load.kv_usage, own.waiting, own.prompt_tokens, own.ready)
        for name, value in zip(GAUGES, gauges, strict=True):
            self._page.gauge(name, value)
        self._page.count(RESTARTS, load.restarts)
        with self._lock:
            ended, refused, seconds = dict(self._ended), list(accumulate(self._refused)), self._refused_seconds
        for outcome, count in ended.items():
            self._page.count(ENDED, count, outcome=outcome)
        for bound, count in zip(REFUSAL_SECONDS, refused, strict=True):
            self._page.count(f"{REFUSALS}_bucket", count, le="+Inf" if math.isinf(bound) else f"{bound:g}")
        self._page.count(f"{REFUSALS}_sum", seconds)
        self._page.count(f"{REFUSALS}_count", refused[-1])

    def close(self) -> None:
        self._page.close()
