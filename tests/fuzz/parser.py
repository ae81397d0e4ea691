"""`scripts/fuzz parser`: split against whole on hostile answers, resumable and cumulative.

Run n of a seed is the answer of `Random(f"{seed}:{n}")`, parsed at once and split: one id at a time in every fourth
run, at random cuts in the others. Merged, the events have to be the same, and each stream's in order. The state file
holds how many runs of each seed are done and is written after every batch, so that a later call goes on from there;
`--fresh` begins at run 0 instead, so that the same runs are done by every call. A failure prints its run; `--only`
repeats it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from kimi_k2_serving.core.events import Event
from tests.fuzz.answers import hostile_answer
from tests.support import tally
from tests.support.answers import check_order, merged, parser, run

BATCH = 2_000


def check(seed: int, number: int) -> str:
    """What is wrong with run `number`, or nothing."""
    random = Random(f"{seed}:{number}")
    answer = hostile_answer(random)
    ids, first_index = answer.ids, number % 3
    cuts = range(1, len(ids)) if number % 4 == 0 else random_cuts(random, len(ids))
    merges: list[list[Event]] = []
    for places in ((), cuts):
        stream = parser(tools=answer.tools, parallel=answer.parallel, stops=answer.stops, first_index=first_index)
        events = run(stream, ids, places, answer.reason)
        try:
            check_order(events, first_index)
        except AssertionError:
            return f"out of order: {events}\nids: {ids}"
        merges.append(merged(events))
    if merges[0] == merges[1]:
        return ""
    return f"at once: {merges[0]}\ncut at {sorted(cuts)}: {merges[1]}\nids: {ids}"


def random_cuts(random: Random, length: int) -> list[int]:
    return [random.randrange(length + 1) for _ in range(random.choice((1, 2, 3, 5, 8, 20)))]


def batch(seed: int, start: int, end: int) -> tuple[int, int, str]:
    """Runs start to end of a seed: how far it came, and the number and fault of the first failure."""
    for number in range(start, end):
        if fault := check(seed, number):
            return end, number, fault
    return end, -1, ""


def batches(seed: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    for first in range(start, end, BATCH):
        yield seed, first, min(first + BATCH, end)


def load(state: Path) -> dict[str, int]:
    return {key: int(value) for key, value in json.loads(state.read_text()).items()} if state.exists() else {}


def save(state: Path, done: dict[str, int]) -> None:
    """Written beside and moved, so that a killed run leaves the last whole state."""
    state.parent.mkdir(parents=True, exist_ok=True)
    beside = state.with_suffix(".new")
    beside.write_text(json.dumps(done) + "\n")
    beside.replace(state)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="scripts/fuzz parser", description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=200_000, help="runs to add (default 200,000)")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    arguments.add_argument("--state", type=Path, default=Path(".cache/fuzz/parser.json"))
    arguments.add_argument("--fresh", action="store_true", help="begin at run 0 and forget what the state file says")
    arguments.add_argument("--only", type=int, help="repeat one run by its number")
    args = arguments.parse_args()
    if args.only is not None:
        fault = check(args.seed, args.only)
        print(fault or "no fault")
        return 1 if fault else 0
    done = {} if args.fresh else load(args.state)
    first = done.get(str(args.seed), 0)
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        # map keeps the order, so the state never counts a batch before those in front of it.
        for end, number, fault in pool.map(batch, *zip(*batches(args.seed, first, first + args.runs), strict=True)):
            if fault:
                pool.shutdown(cancel_futures=True)
                tally.record(tally.Count("fuzz parser", failed=1))
                print(f"seed {args.seed}, run {number}: {fault}\nrepeat: --seed {args.seed} --only {number}")
                return 1
            done[str(args.seed)] = end
            save(args.state, done)
    seconds = time.monotonic() - started
    # All runs together are one check: 200,000 of them would hide how many tests there are.
    tally.record(tally.Count("fuzz parser", passed=int(args.runs > 0)))
    print(
        f"parser: {args.runs} runs in {seconds:.1f} s, {args.runs / seconds:.0f} runs/s, no fault; "
        f"{done[str(args.seed)]} of seed {args.seed}, {sum(done.values())} in all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
