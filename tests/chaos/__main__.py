"""`scripts/chaos [--short]`: start the real server, break it in every way, print a table. Exit 1 if a promise broke."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from tests.chaos import scenarios
from tests.chaos.load import Load
from tests.chaos.scenarios import Row
from tests.server.running import Server, running

GRACE = 8
# A fifth death within ten minutes would be a crash loop.
LOSSES = (
    ("sglang::host", signal.SIGKILL),
    ("sglang::scheduler", signal.SIGKILL),
    ("sglang::detokenizer", signal.SIGKILL),
    ("sglang::scheduler", signal.SIGSTOP),
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="under four minutes, for every change")
    parser.add_argument("--rounds", type=int, default=3, help="servers to start and kill the engine of four times (3)")
    parser.add_argument("--overload", type=float, default=300, metavar="S", help="seconds of overload (300)")
    parser.add_argument("--cancels", type=int, default=200, metavar="N", help="random-phase cancels (200)")
    options = parser.parse_args(argv)
    if options.short:
        options.rounds, options.overload, options.cancels = 1, 15, 12
    rows: list[Row] = []
    for number in range(options.rounds):
        with running("--grace", str(GRACE)) as server:
            asyncio.run(one_server(server, options, rows, first=number == 0))
    faults = sum(len(row.faults) for row in rows)
    print(f"\n{len(rows)} scenarios, {faults} broken promises")
    return 1 if faults else 0


async def one_server(server: Server, options: argparse.Namespace, rows: list[Row], *, first: bool) -> None:
    def add(row: Row) -> None:
        rows.append(row)
        show(row)

    # Every pool and thread is there before anything is counted.
    async with Load(server.url, server.grpc, width=scenarios.WIDTH, tokens=50) as load:
        await asyncio.sleep(3)
        await load.stop()
    if first:
        for row in await scenarios.cancels(server, options.cancels):
            add(row)
        add(await scenarios.slow_readers(server, 8))
        add(await scenarios.overload(server, options.overload))
    for title, number in LOSSES:
        add(await scenarios.lose_a_process(server, title, number))
    add(await scenarios.drain(server, GRACE))


def show(row: Row) -> None:
    endings = ", ".join(f"{count} {kind}" for kind, count in sorted(row.endings.items()))
    print(f"| {row.name} | {row.runs} | {endings} | {row.measured} | {row.leaks} |", flush=True)
    for fault in row.faults:
        print(f"  BROKEN: {fault}", flush=True)


if __name__ == "__main__":
    print("| scenario | runs | endings | measured | leaks |\n|---|---|---|---|---|", flush=True)
    sys.exit(main(sys.argv[1:]))
