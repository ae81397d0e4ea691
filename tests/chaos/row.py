"""One line of the table: what was done to the server, how the requests ended, what was measured and what broke."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """No `faults` means that the promise held."""

    name: str
    runs: int
    endings: Counter[str]
    measured: str
    leaks: str = "none"
    faults: list[str] = field(default_factory=list)

    def expect(self, held: bool, what: str) -> None:
        if not held:
            self.faults.append(what)


def quantile(seconds: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0.0 where there are none."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def quantiles(seconds: Iterable[float]) -> str:
    """p50, p99 and the largest, in ms."""
    found = list(seconds)
    if not found:
        return "no samples"
    middle, late = quantile(found, 0.5), quantile(found, 0.99)
    return f"p50 {middle * 1e3:.0f}, p99 {late * 1e3:.0f}, max {max(found) * 1e3:.0f} ms"
