"""The engine model's metrics on Triton's /metrics page: the scheduler's state under SGLang's names, endings and
refusals.

Values are collected here, and `flush` writes them to the page.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from kimi_k2_serving.engine.port import Load
from kimi_k2_serving.engine.totals import Rates, Totals
from kimi_k2_serving.triton.metrics_page import MetricsPage

GAUGES = {
    "sglang:num_running_reqs": "Requests in the scheduler's batch",
    "sglang:num_queue_reqs": "Requests in the scheduler's queue",
    "sglang:token_usage": "Share of the KV pool in use, 0 to 1, without what may be evicted",
    "sglang:num_used_tokens": "Tokens of the KV pool in use, without what may be evicted",
    "sglang:max_total_num_tokens": "Tokens of the KV pool",
    "sglang:gen_throughput": "Generated tokens a second, over the last second or longer",
    "sglang:cache_hit_rate": "Share of prompt tokens that were cached, in the requests that ended last",
    "sglang_backend:waiting_requests": "Requests that wait for admission, before the scheduler",
    "sglang_backend:in_flight_prompt_tokens": "Prompt tokens of all admitted requests",
    "sglang_backend:ready": "1 while requests are accepted, else 0: the engine is down or the server is stopping",
}
WITH_EVERY_TOKEN = ("sglang:num_used_tokens", "sglang:gen_throughput", "sglang:cache_hit_rate")
ENDED = "sglang_backend:requests"
RESTARTS = "sglang_backend:engine_restarts"
REFUSALS = "sglang_backend:refusal_seconds"
# SGLang's names for the engine's totals and histograms.
TOTALS = {
    "sglang:prompt_tokens_total": "Prompt tokens of requests that ended",
    "sglang:cached_tokens_total": "Of those, tokens that were cached",
    "sglang:generation_tokens_total": "Generated tokens",
    "sglang:num_requests_total": "Requests that ended in the engine",
}
HISTOGRAMS = {
    "sglang:time_to_first_token_seconds": "seconds from a request's arrival in the engine to its first token",
    "sglang:inter_token_latency_seconds": "seconds between two tokens: a request's average, for each of its tokens",
    "sglang:e2e_request_latency_seconds": "seconds from a request's arrival in the engine to its end",
}
COUNTERS = {
    **TOTALS,
    **{
        f"{name}_{part}": f"{what}: {meaning}"
        for name, meaning in HISTOGRAMS.items()
        for part, what in (("bucket", "Observations up to a bound"), ("sum", "Sum"), ("count", "Observations"))
    },
    ENDED: "Requests by outcome: completed, aborted, probe (an empty request) or an error code",
    RESTARTS: "Restarts of the engine",
    f"{REFUSALS}_bucket": "Requests refused on arrival, by the seconds from arrival to their error",
    f"{REFUSALS}_sum": "Sum of the seconds from arrival to error of requests refused on arrival",
    f"{REFUSALS}_count": "Requests refused on arrival",
}
# While requests run, values that change with every token are written at this interval, because each write is a message
# to Triton's process.
TOTALS_SECONDS = 1.0
REFUSAL_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, math.inf)


@dataclass(frozen=True, slots=True)
class Own:
    """This backend's own gauges; the scheduler's are in `Load`."""

    waiting: int
    prompt_tokens: int
    ready: bool


class EngineMetrics:
    """Call `ended` and `refused` on any thread, `flush` on one thread at a time."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._page = MetricsPage(model, gauges=GAUGES, counters=COUNTERS)
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        # The number of refusals per bucket of REFUSAL_SECONDS, not cumulative.
        self._refused = [0] * len(REFUSAL_SECONDS)
        self._refused_seconds = 0.0
        self._rates = Rates()
        self._totals_at = -math.inf

    def ended(self, outcome: str) -> None:
        with self._lock:
            self._ended[outcome] += 1

    def refused(self, code: str, seconds: float) -> None:
        with self._lock:
            self._ended[code] += 1
            self._refused[bisect_left(REFUSAL_SECONDS, seconds)] += 1
            self._refused_seconds += seconds

    def flush(self, load: Load, own: Own) -> None:
        now = self._clock()
        self._rates.look(load.totals, now)
        gauges = (
            *(load.running, load.queued, load.kv_usage, load.kv_used, load.kv_capacity),
            *(self._rates.throughput, self._rates.hit_rate),
            *(own.waiting, own.prompt_tokens, own.ready),
        )
        whole = not load.running or now - self._totals_at >= TOTALS_SECONDS
        for name, value in zip(GAUGES, gauges, strict=True):
            if whole or name not in WITH_EVERY_TOKEN:
                self._page.gauge(name, value)
        self._page.count(RESTARTS, load.restarts)
        if whole:
            self._totals_at = now
            self._flush_totals(load.totals)
        with self._lock:
            ended, refused, seconds = dict(self._ended), list(accumulate(self._refused)), self._refused_seconds
        for outcome, count in ended.items():
            self._page.count(ENDED, count, outcome=outcome)
        self._histogram(REFUSALS, REFUSAL_SECONDS, refused, seconds)

    def _flush_totals(self, totals: Totals) -> None:
        counts = (totals.prompt, totals.cached, totals.generated, totals.requests)
        for name, count in zip(TOTALS, counts, strict=True):
            self._page.count(name, count)
        for name, each in zip(HISTOGRAMS, (totals.first, totals.between, totals.whole), strict=True):
            self._histogram(name, (*each.bounds, math.inf), list(accumulate(each.counts)), each.total)

    def _histogram(self, name: str, bounds: Sequence[float], cumulative: Sequence[int], total: float) -> None:
        for bound, count in zip(bounds, cumulative, strict=True):
            self._page.count(f"{name}_bucket", count, le="+Inf" if math.isinf(bound) else f"{bound:g}")
        self._page.count(f"{name}_sum", total)
        self._page.count(f"{name}_count", cumulative[-1])

    def close(self) -> None:
        self._page.close()
