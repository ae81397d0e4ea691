"""What the grammars did not hold, on Triton's own /metrics page. A server without metrics is served all the same."""

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
    RELAXED: "Requests with a part of a schema that no grammar holds",
    INSPECTED: "Finished calls and contents of such requests that were validated, by kind",
    INVALID: "Those of them that their schema refuses, by kind",
}


class EnforcementMetrics:
    """On any thread. Series are there from the start, so that a rate can be taken of the first."""

    def __init__(self, model: str) -> None:
        self._page = MetricsPage(model, gauges={}, counters=COUNTERS)
        self._lock = threading.Lock()
        self._totals: Counter[tuple[str, str]] = Counter()
        self._complaints = Complaints()
        for name, kind in ((RELAXED, ""), *product((INSPECTED, INVALID), ("call", "content"))):
            self._add(name, kind, 0)

    def began(self) -> None:
        """A request with a relaxed node."""
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
                # An answer is worth more than its count; the next one brings what is missing.
                self._complaints.about("counting what was enforced", error)
