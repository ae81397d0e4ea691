"""Compares two runs of one program figure by figure: which run is better, and whether a figure got worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kimi_k2_cli.bench.figures import STATISTICS, BenchFigures, BenchRun
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidRequest, InvalidValue

FILE = "bench.json"
Verdict = Literal["better", "same", "worse", ""]


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """`ratio` is after / before, None if before is 0. `verdict` is "" for a figure without significance: a mean or a
    high percentile of a few requests differs by chance.
    """

    figure: str
    before: float
    after: float
    ratio: float | None
    verdict: Verdict


def read_run(path: Path) -> BenchRun:
    """`path`: a folder of `kimi-k2 bench --output`, or its bench.json. Raises InvalidValue."""
    file = path / FILE if path.is_dir() else path
    try:
        run = BenchRun.read(strict_json.loads(file.read_bytes(), field="compare"))
    except OSError:
        raise InvalidValue(f"{file} can't be read; give a folder of kimi-k2 bench --output", field="compare") from None
    except (InvalidRequest, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        raise InvalidValue(f"{file} is no result of kimi-k2 bench", field="compare") from None
    if run.figures is None:
        raise InvalidValue(f"{file} has no figures: its run failed", field="compare")
    return run


def differences(before: BenchRun, after: BenchRun) -> list[str]:
    """The differences between the loads, except endpoint and tokenizer. Raises InvalidValue for different programs."""
    if before.tool != after.tool:
        raise InvalidValue(
            f"{before.tool} and {after.tool} measure differently; compare runs of one program", field="compare"
        )
    ours, theirs = asdict(before.load), asdict(after.load)
    return [
        f"{name}: {ours[name]} before, {theirs[name]} after"
        for name in ("model", "concurrency", "requests", "inputs", "outputs")
        if ours[name] != theirs[name]
    ]


def compared(before: BenchFigures, after: BenchFigures, tolerance: float) -> list[ComparedFigure]:
    """Compare figure by figure. `tolerance`: the share by which a figure may differ and still count as the same."""
    olds, news = dict(_numbers(before)), dict(_numbers(after))
    return [_compared(name, old, news[name], tolerance) for name, old in olds.items() if name in news]


def _numbers(figures: BenchFigures) -> Iterator[tuple[str, float]]:
    yield "failed requests", figures.failed
    yield "requests/s", figures.requests_per_second
    if figures.output_tokens_per_second is not None:
        yield "output tokens/s", figures.output_tokens_per_second
    for name, spread in figures.spreads:
        if spread is not None:
            for statistic in STATISTICS:
                yield f"{name}, {statistic} (ms)", getattr(spread, statistic)


def _compared(name: str, before: float, after: float, tolerance: float) -> ComparedFigure:
    ratio = after / before if before else None
    verdict: Verdict = ""
    if name == "failed requests":
        verdict = "same" if before == after else "worse" if after > before else "better"
    elif ratio is not None and ("/s" in name or "p50" in name):
        # The factor of the improvement: above 1 for a higher rate, and for a shorter time.
        gain = ratio if "/s" in name else (before / after if after else float("inf"))
        verdict = "worse" if gain < 1 / (1 + tolerance) else "better" if gain > 1 + tolerance else "same"
    return ComparedFigure(name, before, after, ratio, verdict)


def table(rows: list[ComparedFigure]) -> str:
    lines = [f"{'':<36} {'before':>12} {'after':>12} {'ratio':>8}"]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
        lines.append(f"{row.figure:<36} {row.before:>12.4g} {row.after:>12.4g} {ratio:>8}  {row.verdict}".rstrip())
    return "\n".join(lines)
