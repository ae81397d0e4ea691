"""Prometheus metrics of the frontend. No label has text of a client, so no client can create a new series.

With several workers, PROMETHEUS_MULTIPROC_DIR (set by `server`) names the directory in which their values add up.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from kimi_k2_serving.enforcer.inspection import Report

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)


class FrontendMetrics:
    """`shared`: report the series of all workers, from the multi-process directory."""

    def __init__(self, *, shared: bool = False) -> None:
        registry = self._registry = CollectorRegistry()
        self._shared = shared
        self.requests = Counter(
            "kimi_k2_frontend_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.in_flight = Gauge(
            "kimi_k2_frontend_requests_in_flight", "Requests in flight", registry=registry, multiprocess_mode="livesum"
        )
        self.disconnects = Counter(
            "kimi_k2_frontend_disconnects", "Clients that left before the end of their answer", registry=registry
        )
        self.first_token = Histogram(
            "kimi_k2_frontend_first_token_seconds", "Time to first token", registry=registry, buckets=SECONDS
        )
        self.duration = Histogram(
            "kimi_k2_frontend_request_seconds", "Time to last byte", ["route"], registry=registry, buckets=SECONDS
        )
        self.prompt_tokens = Counter("kimi_k2_frontend_prompt_tokens", "Prompt tokens", registry=registry)
        self.cached_tokens = Counter(
            "kimi_k2_frontend_cached_tokens", "Prompt tokens found in the prefix cache", registry=registry
        )
        self.completion_tokens = Counter("kimi_k2_frontend_completion_tokens", "Generated tokens", registry=registry)
        self.rejected_calls = Counter(
            "kimi_k2_frontend_rejected_calls", "Rejected calls that became content", ["reason"], registry=registry
        )

        self.relaxed_requests = Counter(
            "kimi_k2_frontend_relaxed_requests",
            "Requests with a schema that the grammar enforces only in part",
            registry=registry,
        )
        self._inspected = Counter(
            "kimi_k2_frontend_inspected", "Validated calls and contents of such requests", ["kind"], registry=registry
        )
        self._invalid = Counter(
            "kimi_k2_frontend_invalid", "Validated calls and contents that were invalid", ["kind"], registry=registry
        )

    def inspected(self, report: Report) -> None:
        self._inspected.labels("call").inc(report.calls)
        self._inspected.labels("content").inc(report.contents)
        self._invalid.labels("call").inc(len(report.invalid))
        self._invalid.labels("content").inc(bool(report.invalid_content))

    def text(self) -> bytes:
        registry = self._registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
