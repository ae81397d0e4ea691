"""Draws the demo model's training curve from the record that `scripts/train-demo` wrote.

scripts/bench training [--png docs/demo-training.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "backend" / "kimi_k2_serving" / "demo" / "trained" / "training.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench training", description="Draw the demo model's training curve.")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--png", type=Path, default=ROOT / "docs" / "demo-training.png")
    args = parser.parse_args()
    record = json.loads(args.record.read_text(encoding="utf-8"))
    draw(record, args.png)
    for run in runs_of(record):
        print(f"{args.png}: {len(run['curve'])} points, {run['tokens'] / 1e6:.0f} million tokens on {run['device']}")


def runs_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that made the weights, the first one first: each may have begun with the weights of another."""
    return [*(runs_of(record["began_with"]) if "began_with" in record else ()), record]


def draw(record: dict[str, Any], png: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = runs_of(record)
    figure, row = pyplot.subplots(1, len(runs), figsize=(8, 4.5), dpi=110, sharey=True, squeeze=False)
    for axes, run in zip(row[0], runs, strict=True):
        steps, answer, prompt = zip(*run["curve"], strict=True)
        axes.plot(steps, prompt, color="#999999", label="prompt")
        axes.plot(steps, answer, color="#1f6feb", label="answer")
        axes.set(xlabel="step", yscale="log", title=f"{run['tokens'] / 1e6:.0f} million tokens\n{run['device']}")
        axes.grid(alpha=0.3)
    row[0][0].set(ylabel="loss, nats per token")
    row[0][0].legend()
    figure.tight_layout()
    figure.savefig(png)


if __name__ == "__main__":
    main()
