"""Metrics of schemas that grammars enforce only in part, on Triton's /metrics page; no-ops if it has no metrics."""

from __future__ import annotations

import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.triton.background import Complaints

RELAXED = "kimi_k2:relaxed_requests"
INSPECTED = "kimi_k2:inspected"
INVALID = "kimi_k2:invalid"
COUNTERS = {
    RELAXED: "Requests whose schema a grammar enforces only in part",
    INSPECTED: "Finished calls and contents of such requests that were validated, by kind",
    INVALID: "Validated calls and contents that break their schema, by kind",
}


class EnforcementMetrics:
    """Call it on any thread. All series exist from the start, so that a rate counts the first event."""

    def __init__(self, model: str) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[tuple[str, str], Any] = {}
        self._families: list[Any] = []
        self._complaints = Complaints()
        try:
            for name, meaning in COUNTERS.items():
                family = pb_utils.MetricFamily(name=name, description=meaning, kind=pb_utils.MetricFamily.COUNTER)
                self._families.append(family)
                for kind in ("",) if name == RELAXED else ("call", "content"):
                    labels = {"model": model, "kind": kind} if kind else {"model": model}
                    self._metrics[name, kind] = family.Metric(labels=labels)
        except Exception as error:
            self.close()
            pb_utils.Logger.log_info(f"metrics are off on this server: {error}")

    def began(self) -> None:
        """Count a request whose schema is enforced only in part."""
        self._add(RELAXED, "", 1)

    def reported(self, report: Report) -> None:
        self._add(INSPECTED, "call", report.calls)
        self._add(INSPECTED, "content", report.contents)
        self._add(INVALID, "call", len(report.invalid))
        self._add(INVALID, "content", int(bool(report.invalid_content)))

    def close(self) -> None:
        """Release the metrics before their families, as Triton requires."""
        with self._lock:
            self._metrics.clear()
        self._families.clear()

    def _add(self, name: str, kind: str, count: int) -> None:
        with self._lock:
            if count and (metric := self._metrics.get((name, kind))) is not None:
                try:
                    metric.increment(count)
                except Exception as error:
                    # A failed metric must not fail the answer.
                    self._complaints.about("counting inspected answers", error)
