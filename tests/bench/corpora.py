"""What published tools cost with a real vocabulary, through the worker that serves: one table.

    scripts/bench corpora --checkpoint DIR [--only servers cluster] [--most 200]

Two rows for each corpus, conversations of one tool and of several, and one for all published ones: how many, seconds of
processor time that the worker spent on each (every try counts; a try that the kernel ended counts with its whole
budget), how many are relaxed in some part, how many have a tool that takes any object, and how many for time. Packages
are fetched by pip and npm into a directory that is removed afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.messages import Conversation, ToolChoice, ToolMode
from kimi_k2_serving.enforcer.enforcer import Enforcer
from kimi_k2_serving.enforcer.worker_client import START_SECONDS, Line, WorkerProcess
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.bench import published
from tests.support.enforcer import constraint_of
from tests.support.schemas import corpus

SLOWEST = 3


def ours(_: Path) -> published.Conversations:
    """The project's own corpus."""
    return [(published.Tool("f", {}, schema),) for schema in corpus().values()]


CORPORA: dict[str, Callable[[Path], published.Conversations]] = {
    "servers": published.servers,
    "leaderboard": published.leaderboard,
    "cluster": published.cluster,
    "ours": ours,
}


@dataclass(slots=True)
class Metered:
    """A worker and what it spent."""

    process: WorkerProcess
    seconds: float = 0.0
    ended: int = 0

    def start(self) -> None:
        self.process.start()

    def wait(self) -> None:
        self.process.wait()

    def close(self) -> None:
        self.process.close()

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]:
        lines = self.process.ask(header, rest, seconds=seconds, patience=patience)
        spent = [line["processor"] for _, line in lines if "processor" in line]
        self.seconds += spent[-1] if spent else float(header["budget"])
        self.ended += not spent
        return lines


@dataclass(slots=True)
class Tally:
    seconds: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seconds += other.seconds
        self.counts += other.counts
        self.slowest += other.slowest

    def show(self, name: str) -> None:
        ordered = sorted(self.seconds) or [0.0]
        p50, p95 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95))
        counts = " | ".join(str(self.counts[each]) for each in ("relaxed", "free", "unreadable", "refused", "time"))
        figures = " | ".join(f"{seconds:.2f}" for seconds in (p50, p95, ordered[-1]))
        print(f"| {name} | {len(self.seconds)} | {figures} | {counts} |", flush=True)
        for seconds, who in sorted(self.slowest, reverse=True)[:SLOWEST]:
            print(f"    {seconds:.2f} s {who}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench corpora", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--most", type=int, default=200, help="conversations of a corpus, drawn at random (200)")
    args = parser.parse_args()
    worker = Metered(WorkerProcess(args.checkpoint))
    print("| corpus | n | p50 | p95 | max | relaxed | free-form | unreadable | refused | for time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory, Enforcer(worker, bounds=Bounds.production()) as enforcer:
        enforcer.worker.wait()
        foreign = Tally()
        for name in args.only:
            conversations = CORPORA[name](Path(directory))
            if len(conversations) > args.most:
                conversations = Random(0).sample(conversations, args.most)
            alone = [tools for tools in conversations if len(tools) == 1]
            together = [tools for tools in conversations if len(tools) > 1]
            for row, asked in ((f"{name}, one tool", alone), (f"{name}, several tools", together)):
                if asked:
                    tally = _measure_all(enforcer, worker, asked)
                    tally.show(row)
                    if name != "ours":
                        foreign.add(tally)
        foreign.show("all published")


def _measure_all(enforcer: Enforcer, worker: Metered, conversations: published.Conversations) -> Tally:
    tally = Tally()
    for tools in conversations:
        _measure(enforcer, worker, Conversation((), tools, ToolChoice(ToolMode.AUTO)), tally)
    return tally


def _measure(enforcer: Enforcer, worker: Metered, conversation: Conversation, tally: Tally) -> None:
    worker.seconds, worker.ended = 0.0, 0
    began = time.monotonic()
    try:
        relaxed = constraint_of(enforcer, conversation).relaxed
    except ServingError:
        tally.counts["refused"] += 1
        relaxed = ()
    tally.seconds.append(worker.seconds)
    tally.counts["relaxed"] += bool(relaxed)
    tally.counts["free"] += any(each.endswith(f": {jobs.WHOLE}") for each in relaxed)
    tally.counts["unreadable"] += any(each.endswith(f": {jobs.UNREADABLE}") for each in relaxed)
    tally.counts["time"] += worker.ended > 0 and worker.seconds > enforcer.budget
    names = ", ".join(tool.name for tool in conversation.tools[:3])
    tally.slowest.append((worker.seconds, f"({time.monotonic() - began:.1f} s by the clock) {names}"))


if __name__ == "__main__":
    main()
