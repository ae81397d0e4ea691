"""The figures that all programs measure, in one form, as they are written to `bench.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Spread:
    """The statistics of one kind of time, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """The statistics of measured values, with percentiles by nearest rank; None if there are no values."""
        if not values:
            return None
        ranked = sorted(values)
        p50, p90, p99 = (ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.9, 0.99))
        return cls(sum(ranked) / len(ranked), p50, p90, p99)

    @classmethod
    def read(cls, document: Any) -> Self | None:
        """Read from JSON; None for null. Raises KeyError, TypeError or ValueError."""
        return None if document is None else cls(*(float(document[name]) for name in STATISTICS))


@dataclass(frozen=True, slots=True)
class BenchFigures:
    """The figures of one run. None: the program did not measure it. `between_tokens` is computed from each answer's
    mean.
    """

    requests: int
    failed: int
    requests_per_second: float
    output_tokens_per_second: float | None
    first_token_ms: Spread | None
    between_tokens_ms: Spread | None
    latency_ms: Spread | None

    @classmethod
    def read(cls, document: Any) -> Self:
        """Raises KeyError, TypeError or ValueError."""
        tokens = document["output_tokens_per_second"]
        spreads = (Spread.read(document[name]) for name in ("first_token_ms", "between_tokens_ms", "latency_ms"))
        return cls(
            int(document["requests"]),
            int(document["failed"]),
            float(document["requests_per_second"]),
            None if tokens is None else float(tokens),
            *spreads,
        )

    @property
    def spreads(self) -> tuple[tuple[str, Spread | None], ...]:
        """Each kind of time with its name for people."""
        return (
            ("time to the first token", self.first_token_ms),
            ("time between tokens", self.between_tokens_ms),
            ("time of a whole answer", self.latency_ms),
        )


@dataclass(frozen=True, slots=True)
class BenchLoad:
    """`inputs` and `outputs` are tokens in each request and answer."""

    url: str
    model: str
    concurrency: int
    requests: int
    inputs: int
    outputs: int
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class BenchRun:
    """`figures` is None if the program left none."""

    tool: str
    command: str
    exit_code: int
    load: BenchLoad
    figures: BenchFigures | None

    @classmethod
    def read(cls, document: Any) -> Self:
        """Raises KeyError, TypeError or ValueError."""
        figures = document["figures"]
        return cls(
            str(document["tool"]),
            str(document["command"]),
            int(document["exit_code"]),
            BenchLoad(**document["load"]),
            None if figures is None else BenchFigures.read(figures),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
