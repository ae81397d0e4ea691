"""The engine's state on Triton's own /metrics page: gauges by SGLang's names, and how requests ended.

Every call to Triton's metrics crosses to its process, so values are collected here and `flush` passes on what changed.
A server that runs without metrics is served all the same.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.engine.port import Load

GAUGES = {
    "sglang:num_running_reqs": "Requests in the scheduler's batch",
    "sglang:num_queue_reqs": "Requests in the scheduler's queue",
    "sglang:token_usage": "Share of the KV pool in use, 0 to 1, less what may be evicted",
    "sglang_backend:waiting_requests": "Requests that wait for admission, before the scheduler",
    "sglang_backend:in_flight_prompt_tokens": "Prompt tokens of all admitted requests",
}
ENDED = "sglang_backend:requests"
RESTARTS = "sglang_backend:engine_restarts"


class Metrics:
    """`ended` on any thread; `flush` on one."""

    def __init__(self, model: str) -> None:
        self._labels = {"model": model}
        self._ended: Counter[str] = Counter()
        self._sent: dict[tuple[str, str], float] = {}
        self._metrics: dict[tuple[str, str], Any] = {}
        self._families: dict[str, Any] = {}
        try:
            for name, meaning in GAUGES.items():
                self._families[name] = family(name, meaning, pb_utils.MetricFamily.GAUGE)
            self._families[ENDED] = family(
                ENDED,
                "Requests by their end: completed, aborted or an error's code",
                pb_utils.MetricFamily.COUNTER,
            )
            self._families[RESTARTS] = family(
                RESTARTS, "Times the engine was started again", pb_utils.MetricFamily.COUNTER
            )
        except Exception as error:
            self._families = {}
            pb_utils.Logger.log_info(f"this server takes no metrics: {error}")

    def ended(self, outcome: str) -> None:
        self._ended[outcome] += 1

    def flush(self, load: Load, waiting: int, prompt_tokens: int) -> None:
        if not self._families:
            return
        gauges = (load.running, load.queued, load.kv_usage, waiting, prompt_tokens)
        for name, value in zip(GAUGES, gauges, strict=True):
            self._set(name, value)
        self._count(RESTARTS, "", load.restarts)
        for outcome, count in list(self._ended.items()):
            self._count(ENDED, outcome, count)

    def close(self) -> None:
        """Metrics go before their families."""
        self._metrics.clear()
        self._families.clear()

    def _set(self, name: str, value: float) -> None:
        if self._sent.get((name, "")) != value:
            self._metric(name, "").set(value)
            self._sent[name, ""] = value

    def _count(self, name: str, outcome: str, value: float) -> None:
        metric = self._metric(name, outcome)
        if (more := value - self._sent.get((name, outcome), 0)) > 0:
            metric.increment(more)
            self._sent[name, outcome] = value

    def _metric(self, name: str, outcome: str) -> Any:
        key = (name, outcome)
        if key not in self._metrics:
            labels = {**self._labels, "outcome": outcome} if outcome else self._labels
            self._metrics[key] = self._families[name].Metric(labels=labels)
        return self._metrics[key]


def family(name: str, meaning: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=name, description=meaning, kind=kind)
