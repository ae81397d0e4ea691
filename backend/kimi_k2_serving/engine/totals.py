"""Totals of the engine's work, under SGLang's own metric names: finished requests, their tokens and their times.

The host sends one FinishedRequest for each request that ended, and the number of tokens since its last beat; nothing is
measured per token. Totals only grow, over restarts too. The bounds are those of SGLang 0.5.23's histograms.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec


class FinishedRequest(msgspec.Struct, array_like=True, frozen=True):
    """A request that ended: its tokens, the number of prompt tokens that were `cached`, and the seconds from its
    arrival in the host to its `first` token and to its end.
    """

    prompt: int
    cached: int
    completion: int
    first: float
    whole: float


_SHORT = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
FIRST_BOUNDS: tuple[float, ...] = _SHORT
WHOLE_BOUNDS: tuple[float, ...] = (*_SHORT, 600, 1200, 1800, 2400)
BETWEEN_BOUNDS: tuple[float, ...] = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8),
    *(1, 2, 4, 6, 8),
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` has one entry for each bound, then one for larger values; they are not cumulative."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls(bounds, (0,) * (len(bounds) + 1))

    def adding(self, seconds: float, times: int = 1) -> Histogram:
        place = bisect_left(self.bounds, seconds)
        counts = tuple(count + times * (number == place) for number, count in enumerate(self.counts))
        return Histogram(self.bounds, counts, self.total + seconds * times)


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of requests and tokens, and the seconds to the first token, to the end, and between two tokens. The time
    between two tokens is a request's average, counted once for each of its tokens.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    generated: int = 0
    first: Histogram = field(default=Histogram.empty(FIRST_BOUNDS))
    whole: Histogram = field(default=Histogram.empty(WHOLE_BOUNDS))
    between: Histogram = field(default=Histogram.empty(BETWEEN_BOUNDS))

    def adding(self, finished: Sequence[FinishedRequest], generated: int) -> Totals:
        totals = replace(self, generated=self.generated + generated) if generated else self
        for each in finished:
            totals = totals._adding_one(each)
        return totals

    def _adding_one(self, each: FinishedRequest) -> Totals:
        later = each.completion - 1
        between = self.between
        if later > 0:
            between = between.adding((each.whole - each.first) / later, later)
        return replace(
            self,
            requests=self.requests + 1,
            prompt=self.prompt + each.prompt,
            cached=self.cached + each.cached,
            first=self.first.adding(each.first) if each.completion else self.first,
            whole=self.whole.adding(each.whole),
            between=between,
        )


@dataclass(slots=True)
class Rates:
    """Tokens per second, and the share of prompt tokens that were cached. Both are measured between two calls of `look`
    that are at least a second apart. If no prompt was computed meanwhile, the share stays as it was.
    """

    throughput: float = 0.0
    hit_rate: float = 0.0
    _seen: Totals = field(default_factory=Totals)
    _at: float | None = None

    def look(self, totals: Totals, now: float) -> None:
        if self._at is None:
            self._at, self._seen = now, totals
        if now - self._at < 1.0:
            return
        self.throughput = (totals.generated - self._seen.generated) / (now - self._at)
        if prompt := totals.prompt - self._seen.prompt:
            self.hit_rate = (totals.cached - self._seen.cached) / prompt
        self._at, self._seen = now, totals
