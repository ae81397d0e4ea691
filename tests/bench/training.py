"""Draws the demo model's training curve from the record that `scripts/train-demo` wrote.

scripts/bench training [--png docs/demo-training.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "backend" / "kimi_k2_serving" / "demo" / "trained" / "training.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench training", description="Draw the demo model's training curve.")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--png", type=Path, default=ROOT / "docs" / "demo-training.png")
    args = parser.parse_args()
    record = json.loads(args.record.read_text(encoding="utf-8"))
    draw(record, args.png)
    print(
        f"{args.png}: {len(record['curve'])} points, {record['tokens'] / 1e6:.0f} million tokens on {record['device']}"
    )


def draw(record: dict[str, object], png: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curve = record["curve"]
    assert isinstance(curve, list)
    steps, answer, prompt = zip(*curve, strict=True)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110)
    axes.plot(steps, prompt, color="#999999", label="prompt")
    axes.plot(steps, answer, color="#1f6feb", label="answer")
    axes.set(xlabel="step", ylabel="loss, nats per token", yscale="log", title=f"Demo model, {record['device']}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(png)


if __name__ == "__main__":
    main()
