"""What the grammar costs and what it holds: the corpus, feature by feature.

    python -m tests.bench.grammar --checkpoint DIR [--bounds demo|production] [--answers 8]

Answers are drawn by dice, a uniform choice among all allowed tokens, and each call is validated. Prints a table per
feature, then one JSON object: times in milliseconds, of building the tag, of compiling it for the first time, and of
building it again when the automata of its patterns are remembered. With production bounds an answer may not end by
itself; those are counted as unfinished and prove nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

from kimi_k2_cli.draw import draw
from kimi_k2_serving.core.messages import Tool
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.constraint import Bounds, constrain
from kimi_k2_serving.json_schema.validate import validate
from tests.grammar.prover import Prover, request, tool
from tests.support.schemas import corpus

BOUNDS = {"demo": Bounds.demo, "production": Bounds.production}
MOST_TOKENS = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench grammar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--bounds", choices=BOUNDS, default="demo")
    parser.add_argument("--answers", type=int, default=8)
    args = parser.parse_args()
    prover = Prover(Vocabulary.load(args.checkpoint))
    times: dict[str, list[float]] = {"build": [], "compile": [], "build_again": []}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, schema in corpus().items():
        counts[name.partition(":")[0]].update(
            _measure(prover, tool(schema), BOUNDS[args.bounds](), args.answers, times)
        )
    print(f"{'feature':12} {'schemas':>8} {'calls':>8} {'valid':>8} {'unfinished':>11} {'relaxed':>8}")
    for feature, count in counts.items():
        row = (count["schemas"], count["calls"], count["valid"], count["unfinished"], count["relaxed"])
        print(f"{feature:12} {row[0]:8} {row[1]:8} {row[2]:8} {row[3]:11} {row[4]:8}")
    print(json.dumps({name: _percentiles(values) for name, values in times.items()}))


def _measure(
    prover: Prover, declared: Tool, bounds: Bounds, answers: int, times: dict[str, list[float]]
) -> Counter[str]:
    conversation = request(declared)
    began = time.perf_counter()
    constraint = constrain(conversation, prover.vocabulary, bounds=bounds)
    built = time.perf_counter()
    assert constraint.structural_tag is not None
    grammar = prover.grammars.compile_structural_tag(constraint.structural_tag)
    compiled = time.perf_counter()
    constrain(conversation, prover.vocabulary, bounds=bounds)
    again = time.perf_counter()
    for name, seconds in (("build", built - began), ("compile", compiled - built), ("build_again", again - compiled)):
        times[name].append(seconds)
    count: Counter[str] = Counter(schemas=1, relaxed=bool(constraint.relaxed))
    dice = Random(0)
    for _ in range(answers):
        drawn = draw(grammar, frozenset(prover.vocabulary.stop_ids), dice, limit=MOST_TOKENS)
        if not drawn.ended:
            count["unfinished"] += 1
            continue
        for call in prover.read(conversation, drawn.ids).tool_calls:
            count["calls"] += 1
            count["valid"] += call.complete and not validate(call.arguments, conversation.tools[0])
    return count


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    last = len(ordered) - 1
    places = {"p50": last // 2, "p90": last * 9 // 10, "p99": last * 99 // 100, "max": last}
    return {name: round(1000 * ordered[place], 2) for name, place in places.items()}


if __name__ == "__main__":
    main()
