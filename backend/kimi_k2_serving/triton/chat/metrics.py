"""Metrics of schemas that grammars enforce only in part, on Triton's /metrics page. They do nothing if Triton has no
metrics.
"""

from __future__ import annotations

import threading
from collections import Counter
from itertools import product

from kimi_k2_serving.enforcer.inspection import Report
from kimi_k2_serving.triton.background import Complaints
from kimi_k2_serving.triton.metrics_page import MetricsPage

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
        self._page = MetricsPage(model, gauges={}, counters=COUNTERS)
        self._lock = threading.Lock()
        self._totals: Counter[tuple[str, str]] = Counter()
        self._complaints = Complaints()
        for name, kind in ((RELAXED, ""), *product((INSPECTED, INVALID), ("call", "content"))):
            self._add(name, kind, 0)

    def began(self) -> None:
        """Count a request whose schema is enforced only in part."""
        self._add(RELAXED, "", 1)

    def reported(self, report: Report) -> None:
        self._add(INSPECTED, "call", report.calls)
        self._add(INSPECTED, "content", report.contents)
        self._add(INVALID, "call", len(report.invalid))
        self._add(INVALID, "content", int(bool(report.invalid_content)))

    def close(self) -> None:
        self._page.close()

    def _add(self, name: str, kind: str, count: int) -> None:
        with self._lock:
            self._totals[name, kind] += count
            try:
                self._page.count(name, self._totals[name, kind], **({"kind": kind} if kind else {}))
            except Exception as error:
                # A failed metric must not fail the answer; the next count makes up for it.
                self._complaints.about("counting inspected answers", error)
