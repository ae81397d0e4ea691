"""One model's series on Triton's own /metrics page.

Each write to a series is a message to Triton's process, so a value that has not changed is not written. If the server
runs without metrics, no series exists and nothing else changes. Raises what Triton raises. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.triton import journal

SGLANG = "sglang:"
_Series = tuple[str, tuple[tuple[str, str], ...]]


class MetricsPage:
    """`gauges` and `counters` map a family's name to its description; each series has the label `model`, and those
    under SGLang's names also its label `model_name`, which its dashboard selects by.
    """

    def __init__(self, model: str, *, gauges: Mapping[str, str], counters: Mapping[str, str]) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._values: dict[_Series, float] = {}
        self._metrics: dict[_Series, Any] = {}
        self._families: dict[str, Any] = {}
        try:
            for described, kind in ((gauges, pb_utils.MetricFamily.GAUGE), (counters, pb_utils.MetricFamily.COUNTER)):
                for name, meaning in described.items():
                    self._families[name] = pb_utils.MetricFamily(name=name, description=meaning, kind=kind)
        except Exception as error:
            self._families = {}
            journal.info(f"metrics are off on this server: {error}")

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            if (metric := self._metric(name, {})) is not None and self._values.get((name, ())) != value:
                metric.set(value)
                self._values[name, ()] = value

    def count(self, name: str, total: float, **labels: str) -> None:
        """Raise a counter to `total`; the first call makes its series, also at 0."""
        with self._lock:
            series = (name, tuple(labels.items()))
            if (metric := self._metric(name, labels)) is None:
                return
            if (more := total - self._values.get(series, 0)) > 0:
                metric.increment(more)
                self._values[series] = total

    def close(self) -> None:
        """Release the metrics before their families, as Triton requires."""
        with self._lock:
            self._metrics.clear()
            self._families.clear()

    def _metric(self, name: str, labels: Mapping[str, str]) -> Any:
        series = (name, tuple(labels.items()))
        if name in self._families and series not in self._metrics:
            own = {"model": self._model, **({"model_name": self._model} if name.startswith(SGLANG) else {})}
            self._metrics[series] = self._families[name].Metric(labels={**own, **labels})
        return self._metrics.get(series)
