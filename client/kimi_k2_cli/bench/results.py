"""Reads what aiperf, guidellm and perf_analyzer write. Written for aiperf 0.13, guidellm 0.8, perf_analyzer 2.44."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kimi_k2_cli.bench.figures import BenchFigures, Spread
from kimi_k2_cli.bench.tools import BenchTool
from kimi_k2_serving.core.errors import InvalidValue

NANOSECONDS = 1e6  # in a millisecond


def read_result(tool: BenchTool, folder: Path) -> BenchFigures:
    """Read the result in `folder`. Raises InvalidValue if there is none or it has another form."""
    path = folder / tool.result
    try:
        # perf_analyzer copies tensors of bytes into its JSON as they are.
        document = json.loads(path.read_bytes().decode("utf-8", errors="replace"), strict=False)
        return READERS[tool](document)
    except OSError:
        raise InvalidValue(f"{tool} left no {path}; its own output says why", field="bench") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InvalidValue(
            f"{path} is not of the form that {tool} is known to write ({type(error).__name__}: {error}); "
            "its own output has the figures",
            field="bench",
        ) from None


def aiperf(document: Any) -> BenchFigures:
    failed = document.get("error_request_count") or {"avg": 0}
    answered = document.get("request_count") or {"avg": 0}
    rates = (document.get(name) for name in ("request_throughput", "output_token_throughput"))
    requests, tokens = (None if rate is None else float(rate["avg"]) for rate in rates)
    names = ("time_to_first_token", "inter_token_latency", "request_latency")
    return BenchFigures(
        int(answered["avg"]),
        int(failed["avg"]),
        requests or 0.0,
        tokens,
        *(_spread(document.get(name), mean="avg") for name in names),
    )


def _spread(row: Any, *, mean: str = "mean", scale: float = 1.0) -> Spread | None:
    if not row:
        return None
    shares = row.get("percentiles", row)
    values = (row[mean], *(shares[name] for name in ("p50", "p90", "p99")))
    return Spread(*(float(value) * scale for value in values))


def perf_analyzer(document: Any) -> BenchFigures:
    """The figures of perf_analyzer, which records the time of each response. It counts no tokens and leaves out failed
    requests.
    """
    (experiment, *_) = document["experiments"]
    requests = [(row["timestamp"], row["response_timestamps"]) for row in experiment["requests"]]
    answered = [(begin, times) for begin, times in requests if times]
    first = [(times[0] - begin) / NANOSECONDS for begin, times in answered]
    whole = [(times[-1] - begin) / NANOSECONDS for begin, times in answered]
    gaps = [(times[-1] - times[0]) / NANOSECONDS / (len(times) - 1) for _, times in answered if len(times) > 1]
    seconds = 0.0
    if answered:
        seconds = (max(times[-1] for _, times in answered) - min(begin for begin, _ in answered)) / 1e9
    return BenchFigures(
        len(answered),
        len(requests) - len(answered),
        len(answered) / seconds if seconds else 0.0,
        None,
        Spread.of(first),
        Spread.of(gaps),
        Spread.of(whole),
    )


def guidellm(document: Any) -> BenchFigures:
    """The figures of the one benchmark that was requested. guidellm's own rates are means over moments, which idle time
    at the ends distorts.
    """
    (benchmark, *_) = document["benchmarks"]
    metrics = benchmark["metrics"]
    totals, seconds = metrics["request_totals"], float(benchmark["duration"])
    answered = int(totals["successful"])
    tokens = metrics["output_token_count"]["successful"] if answered else {"total_sum": 0.0}
    spreads = (
        _spread(metrics[name]["successful"], scale=scale) if answered else None
        for name, scale in (
            ("time_to_first_token_ms", 1.0),
            ("inter_token_latency_ms", 1.0),
            ("request_latency", 1000.0),
        )
    )
    return BenchFigures(
        answered,
        int(totals["errored"]) + int(totals["incomplete"]),
        answered / seconds if seconds else 0.0,
        float(tokens["total_sum"]) / seconds if seconds else None,
        *spreads,
    )


READERS: Mapping[BenchTool, Callable[[Any], BenchFigures]] = {
    BenchTool.AIPERF: aiperf,
    BenchTool.GUIDELLM: guidellm,
    BenchTool.PERF_ANALYZER: perf_analyzer,
}
