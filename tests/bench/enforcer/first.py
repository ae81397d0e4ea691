"""Time to the first token of a schema that the server has never seen, beside one that it knows.

    scripts/bench enforcer first [--preset demo-random] [--schemas N] [--tools 16]

Every schema of the corpus as one tool, then sets of `--tools` of them. One request at a time, one token each, through
kimi_k2: once with tool_choice none, which puts the prompt into the prefix cache; then required, for the first time
(constraint and compile) and again (both remembered). Prints milliseconds of each, and of the difference per schema.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx

from tests.bench.enforcer.serving import serving
from tests.support.calls import PATIENCE_SECONDS, tool
from tests.support.schemas import corpus, sample

# Seconds of: the new schema, the known one.
Pair = tuple[float, float]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="demo-random")
    parser.add_argument("--schemas", type=int, metavar="N", help="an even sample of the corpus (default: all of it)")
    parser.add_argument("--tools", type=int, default=16, help="tools of one request in the second table")


def run(args: argparse.Namespace) -> int:
    schemas = sample(args.schemas) if args.schemas else corpus()
    single = {name: [tool("look", schema)] for name, schema in schemas.items()}
    titles = list(schemas)
    sets = {
        f"{titles[start]} and on": [
            tool(f"tool_{number}", schemas[title]) for number, title in enumerate(titles[start : start + args.tools])
        ]
        for start in range(0, len(titles), args.tools)
    }
    with serving(args.preset) as (server, _), httpx.Client(timeout=PATIENCE_SECONDS) as client:

        def ask(tools: Sequence[dict[str, Any]], choice: str) -> float:
            body = {
                "messages": json.dumps([{"role": "user", "content": "Call it."}]),
                "tools": json.dumps(tools),
                "tool_choice": choice,
                "max_tokens": 1,
            }
            begin = time.perf_counter()
            answer = client.post(server.generate(), json=body)
            answer.raise_for_status()
            return time.perf_counter() - begin

        ask([tool("warm", {"type": "object"})], "required")
        for what, requests in (("one tool", single), (f"{args.tools} tools", sets)):
            report(what, {name: measure(ask, tools) for name, tools in requests.items()})
    return 0


def measure(ask: Callable[[Sequence[dict[str, Any]], str], float], tools: Sequence[dict[str, Any]]) -> Pair:
    ask(tools, "none")
    return ask(tools, "required"), ask(tools, "required")


def report(what: str, pairs: dict[str, Pair]) -> None:
    print(f"{what + f', {len(pairs)} requests':28} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}  ms")
    rows = {
        "new": [new for new, _ in pairs.values()],
        "known": [known for _, known in pairs.values()],
        "difference": [new - known for new, known in pairs.values()],
    }
    for name, seconds in rows.items():
        print(f"{name:28} " + " ".join(f"{value:8.0f}" for value in percentiles(seconds)))
    worst = sorted(pairs, key=lambda name: pairs[name][0] - pairs[name][1])[-3:]
    print(
        "most for: " + "; ".join(f"{name} {1000 * (pairs[name][0] - pairs[name][1]):.0f}" for name in reversed(worst))
    )


def percentiles(seconds: Iterable[float]) -> list[float]:
    ordered = sorted(1000 * each for each in seconds)
    last = len(ordered) - 1
    return [ordered[place] for place in (last // 2, last * 9 // 10, last * 99 // 100, last)]
