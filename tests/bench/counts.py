"""The work of one token in counts, which a busy machine does not change much: `scripts/bench counts [--json FILE]`.

16 streams at 20 tokens per second, over the stand-in for SGLang: so slow that the server sends each token by itself.
Counted per token and process: voluntary context switches, which are hand-overs between threads and processes, and
system calls, if perf(1) may count them here. For the engine model also Triton's responses and their tensors. A busy
machine lets tokens gather, which lowers the counts: so they may exceed their bounds only if the work has grown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.tokens import Vocabulary
from tests.bench.serving import scripted
from tests.bench.serving.arms import Arm
from tests.bench.serving.load import Driver, Load
from tests.bench.serving.measuring import chosen, start_drivers
from tests.bench.serving.processes import Tree, difference
from tests.bench.serving.servers import Ports, Server
from tests.bench.serving.workload import Chats, Workload
from tests.server.running import ROOT

STREAMS, RATE, ANSWER = 16, 20.0, 100
ARMS = ("engine_model", "ensemble", "frontend")
DEMO = ROOT / ".cache" / "checkpoints" / "demo"
# A count that is over its bound by less than this is not reported: a hand-over more or less in ten tokens is chance.
SLACK = 0.1
# A process with fewer hand-overs per token has no part in a token's way.
LEAST = 0.05


def measure(checkpoint: Path, ports: Ports) -> dict[str, Any]:
    """By arm: counts per token, by name and process."""
    chats = Chats(Vocabulary.load(checkpoint))
    with scripted.running(checkpoint, ports, RATE) as server:
        arms = chosen(ARMS)
        clients = start_drivers(arms)
        try:
            return {arm.name: counts(arm, server, clients, chats) for arm in arms}
        finally:
            for driver in clients.values():
                driver.end()


def counts(arm: Arm, server: Server, clients: dict[str, Driver], chats: Chats) -> dict[str, Any]:
    load_of(arm, server, clients, chats, 8)  # warms up
    before = server.tree.sample()
    with system_calls(server.tree) as calls:
        outcome = load_of(arm, server, clients, chats, ANSWER)
    spent = difference(before, server.tree.sample())
    tokens = outcome.tokens
    switches = {name: round(each.switches / tokens, 2) for name, each in spent.items()}
    switches = {name: count for name, count in switches.items() if count >= LEAST}
    return {
        "messages": round(sum(answer.messages for answer in outcome.answers) / tokens, 3),
        "tensors": round(sum(answer.tensors for answer in outcome.answers) / tokens, 3),
        "switches": switches,
        "system_calls": {name: round(count / tokens, 2) for name, count in calls.items() if name in switches},
    }


def load_of(arm: Arm, server: Server, clients: dict[str, Driver], chats: Chats, answer: int) -> Any:
    plain = arm.load(server, chats.chats(Workload("counts", 64, answer), STREAMS), STREAMS)
    return arm.driver(server, clients).run(Load(plain.address, plain.path, STREAMS, plain.requests, spread=0.5))


@contextmanager
def system_calls(tree: Tree) -> Iterator[dict[str, int]]:
    """Filled at the end, by process name; stays empty where perf is missing or not allowed to count."""
    found: dict[str, int] = {}
    perf = shutil.which("perf")
    pids = {pid: tree.name(pid) for pid in tree.pids()} if perf else {}
    command = [str(perf), "stat", "-x", ",", "-e", "raw_syscalls:sys_enter"]
    running = [
        (name, subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True))
        for pid, name in pids.items()
    ]
    try:
        yield found
    finally:
        for name, process in running:
            process.send_signal(signal.SIGINT)
            said = process.communicate()[1]
            counted = said.strip().rpartition("\n")[2].partition(",")[0]
            if counted.isdecimal():
                found[name] = found.get(name, 0) + int(counted)


def excesses(found: Mapping[str, Any], bounds: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """A line for each count over its bound. Counts without a bound, and bounds without a count, are ignored."""
    for name, bound in bounds.items():
        place, count = f"{where} {name}".strip(), found.get(name)
        if isinstance(bound, Mapping):
            yield from excesses(count or {}, bound, place)
        elif count is not None and count > bound + SLACK:
            yield f"{place}: {count:g} per token, at most {bound:g}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    parser.add_argument("--port", type=int, help="the first of four ports (default: any that are free)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here, too")
    options = parser.parse_args()
    found = measure(options.checkpoint.absolute(), Ports(options.port))
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
