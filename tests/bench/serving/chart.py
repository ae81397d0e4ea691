"""The result as a picture: CPU microseconds per token of each process, stacked, for every arm and concurrency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.serving.report import LABELS

# Ours in warm colours, SGLang's in cold ones, Triton's own in grey.
COLOURS = {
    "scheduler": "#1f4e79",
    "detokenizer": "#2e75b6",
    "engine_process": "#9dc3e6",
    "http_server": "#5b9bd5",
    "rust_server": "#7f6084",
    "host": "#c55a11",
    "stub_engine": "#ed7d31",
    "stub_preprocess": "#f4b183",
    "stub_postprocess": "#ffc000",
    "frontend": "#bf9000",
    "triton": "#7f7f7f",
}
OTHER = "#d9d9d9"


def draw(document: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    workloads = document["workloads"]
    figure, axes = pyplot.subplots(len(workloads), 1, figsize=(12, 5 * len(workloads)), squeeze=False)
    for axis, (name, part) in zip(axes[:, 0], workloads.items(), strict=True):
        _workload(axis, part)
        axis.set_title(f"{name}, commit {document['machine']['commit']}, tokens/s above the bars")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def _workload(axis: Any, part: dict[str, Any]) -> None:
    bars = [(arm, level) for arm, levels in part["arms"].items() for level in levels]
    known = [*COLOURS, *sorted({name for each in part["cpu_us_per_token"].values() for name in each} - set(COLOURS))]
    bottoms = [0.0] * len(bars)
    for process in known:
        costs = [part["cpu_us_per_token"][arm].get(process, {}).get(level, 0.0) for arm, level in bars]
        if any(costs):
            axis.bar(range(len(bars)), costs, bottom=bottoms, color=COLOURS.get(process, OTHER), label=process)
            bottoms = [below + cost for below, cost in zip(bottoms, costs, strict=True)]
    for index, (arm, level) in enumerate(bars):
        rate = part["arms"][arm][level]["tokens_per_second"]
        axis.text(index, bottoms[index], f"{rate:.0f}", ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(bars)), [f"{LABELS[arm]}\n{level[1:]} at once" for arm, level in bars], fontsize=6)
    axis.tick_params(axis="x", rotation=60)
    axis.set_ylabel("CPU us per token")
    axis.legend(fontsize=7, ncols=3)
