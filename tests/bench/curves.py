"""How the cost of a token and of a request grows: `scripts/bench curves [--json FILE] [--chart FILE.png]`.

Our own processes over the stand-in for SGLang, so no engine's cost is in the figures. Four curves through the frontend
and the ensemble: the answer's length, the conversation's length, the number of tools, and the streams at once. The
cost is CPU time of all processes, per token or per request. The exponent is the slope between the two largest points
on logarithmic scales of the cost of a whole answer or request: 1 is linear, less is better, and more than LINEAR is
reported as not linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.tokens import Vocabulary
from tests.bench.counts import DEMO
from tests.bench.serving import scripted
from tests.bench.serving.arms import Arm
from tests.bench.serving.load import Driver, Load
from tests.bench.serving.measuring import chosen, say, start_drivers
from tests.bench.serving.processes import difference
from tests.bench.serving.servers import Ports, Server
from tests.bench.serving.workload import Chats, Workload

ARMS = ("frontend", "ensemble")
LINEAR = 1.15
REQUESTS = 48


@dataclass(frozen=True, slots=True)
class Curve:
    """`field` of the workload takes each of `values`; "streams" is the number of requests at once.

    `unit`: what the cost is divided by. `requests`: of one point. `rate`: tokens per second of each stream.
    """

    name: str
    field: str
    values: tuple[int, ...]
    unit: str
    base: Workload
    rate: float
    streams: int = 4
    requests: int = REQUESTS


ANSWERS = (1024, 2048, 4096, 8192, 16384)
CURVES = (
    Curve("tokens of the answer", "answer", ANSWERS, "token", Workload("answer", 64, 64), 800.0, streams=1, requests=1),
    Curve("earlier turns", "turns", (1, 4, 16, 64, 256), "request", Workload("turns", 64, 4), 50.0),
    Curve("tools", "tools", (1, 4, 16, 64, 256), "request", Workload("tools", 64, 4), 50.0),
    Curve("streams at once", "streams", (1, 4, 16, 64, 256), "token", Workload("streams", 64, 64), 10.0),
)


def measure(checkpoint: Path, arms: Sequence[Arm], curves: Sequence[Curve], ports: Ports) -> dict[str, Any]:
    chats = Chats(Vocabulary.load(checkpoint))
    clients = start_drivers(arms)
    found = {}
    try:
        for curve in curves:
            with scripted.running(checkpoint, ports, curve.rate) as server:
                found[curve.name] = {arm.name: curve_of(curve, arm, server, clients, chats) for arm in arms}
    finally:
        for driver in clients.values():
            driver.end()
    return found


def curve_of(curve: Curve, arm: Arm, server: Server, clients: dict[str, Driver], chats: Chats) -> dict[str, Any]:
    points = []
    for value in curve.values:
        streams = value if curve.field == "streams" else curve.streams
        workload = curve.base if curve.field == "streams" else replace(curve.base, **{curve.field: value})
        asked = chats.chats(workload, max(curve.requests, 2 * streams if curve.field == "streams" else 0))
        # The first request with new tools waits for their grammar, which later ones share.
        arm.driver(server, clients).run(arm.load(server, asked[:1], 1))
        plain = arm.load(server, asked, streams)
        before = server.tree.sample()
        outcome = arm.driver(server, clients).run(Load(plain.address, plain.path, streams, plain.requests))
        spent = difference(before, server.tree.sample())
        points.append(point(value, outcome, spent, curve.unit))
        say(f"{curve.name} {value:6} {arm.name:10} {points[-1]['cpu_us']:10.1f} us a {curve.unit}")
    slope = exponent(curve, points)
    return {"points": points, "unit": curve.unit, "exponent": slope, "linear": slope <= LINEAR}


def point(value: int, outcome: Any, spent: Any, unit: str) -> dict[str, Any]:
    whole = outcome.tokens if unit == "token" else len(outcome.answers)
    processes = {name: round(1e6 * each.seconds / whole, 1) for name, each in spent.items()}
    return {
        "value": value,
        "cpu_us": round(1e6 * sum(each.seconds for each in spent.values()) / whole, 1),
        "processes": {name: cost for name, cost in processes.items() if cost},
        "tokens_per_event": round(outcome.tokens / sum(answer.events for answer in outcome.answers), 2),
        "tokens_per_second": round(outcome.tokens / outcome.seconds, 1),
    }


def exponent(curve: Curve, points: Sequence[dict[str, Any]]) -> float:
    """Of the cost of all tokens of an answer, of one request, or of one token of every stream."""
    last, largest = points[-2:]
    whole = [each["cpu_us"] * (each["value"] if curve.unit == "token" else 1) for each in (last, largest)]
    return round(math.log(whole[1] / whole[0]) / math.log(largest["value"] / last["value"]), 3)


def draw(found: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (name, arms) in zip(axes[0], found.items(), strict=True):
        for arm, curve in arms.items():
            points = curve["points"]
            label = f"{arm}, exponent {curve['exponent']:g}"
            axis.plot([each["value"] for each in points], [each["cpu_us"] for each in points], marker="o", label=label)
            axis.set_ylabel(f"CPU us a {curve['unit']}")
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(name)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--curves", nargs="+", choices=[each.field for each in CURVES])
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    parser.add_argument("--port", type=int, help="the first of four ports a curve (default: any that are free)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE")
    options = parser.parse_args()
    curves = [each for each in CURVES if not options.curves or each.field in options.curves]
    found = measure(options.checkpoint.absolute(), chosen(options.arms), curves, Ports(options.port))
    print(f"load average {' '.join(f'{each:.1f}' for each in os.getloadavg())}")
    for name, arms in found.items():
        for arm, curve in arms.items():
            cells = ", ".join(f"{each['value']}: {each['cpu_us']:g}" for each in curve["points"])
            judged = "linear" if curve["linear"] else "NOT linear"
            print(f"{name}, {arm}: CPU us a {curve['unit']}: {cells}; exponent {curve['exponent']:g}, {judged}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.chart:
        draw(found, options.chart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
