"""What a token costs: our server beside SGLang's own servers and its bare Engine, in one run on one checkpoint.

    scripts/bench serving --quick                        64 tokens in and out, no tools: within six minutes
    scripts/bench serving --scripted                     our own cost, over an engine with scripted outputs
    scripts/bench serving --json FILE --chart FILE.png   all workloads

Each arm is one way to reach the engine. Rounds alternate between the arms, and the servers that are not measured are
stopped. For each arm: tokens/s, time to the first token, gaps, tokens per event, and CPU microseconds per token of
every process by name; the client's own are apart. Ratios are of tokens/s round by round, above 1 is better.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.tokens import Vocabulary
from tests.bench.serving import chart, report, scripted, workload
from tests.bench.serving.arms import ARMS
from tests.bench.serving.figures import document
from tests.bench.serving.measuring import Bench, Plan, chosen
from tests.bench.serving.servers import OURS, Ports, started
from tests.bench.serving.workload import Chats
from tests.server.running import ROOT

DEMO = ROOT / ".cache" / "checkpoints" / "demo"
# Requests of a round by concurrency. In a full run two waves at least, so that requests begin while others run.
REQUESTS = {1: 6, 16: 32, 64: 128}
QUICK_REQUESTS = {1: 4, 16: 32, 64: 64}
# A quick run begins no second round that would end later. The servers' end takes a few seconds more.
QUICK_SECONDS = 340.0


def main() -> int:
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load_before = os.getloadavg()
    found = measure_scripted(options) if options.scripted else measure(options)
    found["machine"] = machine(load_before)
    print("\n".join(report.lines(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.chart:
        chart.draw(found, options.chart)
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    arms, began = chosen(options.arms), time.monotonic()
    with started({arm.server for arm in arms}, options.checkpoint, options.preset, Ports(options.port)) as servers:
        bench = Bench(servers, arms, Chats(Vocabulary.load(options.checkpoint)))
        bench.start_clients()
        try:
            bench.warm_up(max(options.concurrency))
            if not options.quick:
                bench.measure_idle_connections()
            measured = bench.measure(plan(options), began + options.seconds)
        finally:
            bench.end_clients()
    parts = {name: document(levels) for name, levels in measured.items()}
    first = next(iter(parts.values()))
    return {
        "ratios": first["ratios"],
        "cpu_ratios": first["cpu_ratios"],
        "cpu_us_per_token": first["cpu_us_per_token"],
        "workloads": parts,
        "memory": bench.memory,
    }


def measure_scripted(options: argparse.Namespace) -> dict[str, Any]:
    arms = [arm for arm in chosen(options.arms) if arm.server == OURS]
    chats = Chats(Vocabulary.load(options.checkpoint))
    found = scripted.measure(
        options.checkpoint,
        arms,
        chats,
        streams=options.streams,
        rate=options.rate,
        ports=Ports(options.port),
    )
    return {"scripted": found}


def plan(options: argparse.Namespace) -> Plan:
    workloads = [each for each in workload.ALL if each.name in options.workloads]
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    return Plan(workloads, {level: requests.get(level, 2 * level) for level in options.concurrency}, options.rounds)


def machine(load_before: tuple[float, float, float]) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load_before": [round(each, 2) for each in load_before],
        "load_after": [round(each, 2) for each in os.getloadavg()],
    }


def parsed() -> argparse.Namespace:
    names = [arm.name for arm in ARMS]
    parser = argparse.ArgumentParser(
        prog="scripts/bench serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only the short workload, two rounds")
    parser.add_argument("--scripted", action="store_true", help="our own arms over an engine with scripted outputs")
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256], help="with --scripted")
    parser.add_argument("--rate", type=float, default=50.0, help="with --scripted: tokens per second of a stream")
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    parser.add_argument("--workloads", nargs="+", choices=[each.name for each in workload.ALL])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="begin no further round that would end later")
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--port", type=int, help="the first of six ports (default: any that are free)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the CPU time per token as a PNG")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else math.inf)
    options.workloads = options.workloads or (["short"] if options.quick else [each.name for each in workload.ALL])
    options.checkpoint = options.checkpoint.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
