"""What the grammars did not hold, on Triton's own /metrics page. A server without metrics is served all the same."""

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
    RELAXED: "Requests with a part of a schema that no grammar holds",
    INSPECTED: "Finished calls and contents of such requests that were validated, by kind",
    INVALID: "Those of them that their schema refuses, by kind",
}


class EnforcementMetrics:
    """On any thread. Series are there from the start, so that a rate can be taken of the first."""

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
            pb_utils.Logger.log_info(f"this server takes no metrics: {error}")

    def began(self) -> None:
        """A request with a relaxed node."""
        self._add(RELAXED, "", 1)

    def reported(self, report: Report) -> None:
        self._add(INSPECTED, "call", report.calls)
        self._add(INSPECTED, "content", report.contents)
        self._add(INVALID, "call", len(report.invalid))
        self._add(INVALID, "content", int(bool(report.invalid_content)))

    def close(self) -> None:
        """Metrics go before their families."""
        with self._lock:
            self._metrics.clear()
        self._families.clear()

    def _add(self, name: str, kind: str, count: int) -> None:
        with self._lock:
            if count and (metric := self._metrics.get((name, kind))) is not None:
                try:
                    metric.increment(count)
                except Exception as error:
                    # An answer is worth more than its count.
                    self._complaints.about("counting what was enforced", error)
