"""`scripts/chaos`: start the real server, break it in every way, print a table. Exit 1 if a promise broke."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial

from tests.chaos import attacks, endings, frontends, killers, losses, nodes, patterns, pods
from tests.chaos.cancels import cancels
from tests.chaos.load import Load
from tests.chaos.overload import burst, overload
from tests.chaos.row import Row
from tests.frontend.running import over
from tests.server.running import Server, running
from tests.support import tally

GRACE = 8
WARM_WIDTH = 64
# How many cancels the short form takes, and how much slower than promised a machine that does other things may be.
SHORT_CANCELS, SHORT_SLACK = 10, 8.0
SHORT_ATTACKS = ("1 body of 14 MiB of escaped quotes", "ensemble: 1 body of 14 MiB of escaped quotes")
# Clients with expensive patterns, and of those in the short form.
PATTERNS, SHORT_PATTERNS = 24, 6


def main(argv: list[str]) -> int:
    options = parse(argv)
    rows: list[Row] = []
    print("| scenario | runs | endings | measured | leaks |\n|---|---|---|---|---|", flush=True)
    for _ in range(options.rounds):
        for name in options.only:
            if name == PODS:
                rows.append(asyncio.run(pods.final_death()))
                show(rows[-1])
                continue
            if name == NODES:
                with nodes.two_nodes("--grace", str(GRACE)) as (server, node):
                    asyncio.run(one_server(server, partial(several_nodes, node), options, rows))
                continue
            with running("--grace", str(GRACE)) as server:
                asyncio.run(one_server(server, SERVERS[name], options, rows))
    faults = sum(len(row.faults) for row in rows)
    print(f"\n{len(rows)} rows, {faults} broken promises")
    return 1 if faults else 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="about eight minutes, for every change")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*SERVERS, NODES, PODS],
        help="some of the servers (all; without those of two nodes if short)",
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often (1)")
    parser.add_argument("--overload", type=float, default=300, metavar="S", help="seconds of overload (300)")
    parser.add_argument("--cancels", type=int, default=200, metavar="N", help="random-phase cancels (200)")
    parser.add_argument(
        "--slack", type=float, default=1.0, metavar="X", help="cancels and gaps may take X times as promised (1)"
    )
    parser.add_argument(
        "--attack",
        metavar="WORDS",
        nargs="+",
        default=[""],
        help="only attacks and rows of two nodes whose name holds one of these (all)",
    )
    options = parser.parse_args(argv)
    options.only = options.only or ([*SERVERS] if options.short else [*SERVERS, NODES, PODS])
    if options.short:
        options.overload, options.cancels, options.slack = 10, SHORT_CANCELS, SHORT_SLACK
    return options


def named(options: argparse.Namespace, row: str) -> bool:
    return any(words in row for words in options.attack)


Scenario = Callable[[Server, argparse.Namespace], AsyncIterator[Row]]


async def cancellation(server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    async for row in cancels(server, options.cancels, slack=options.slack):
        yield row
    yield await endings.slow_readers(server, 8)
    yield await endings.drain(server, GRACE)


async def crowds(server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    yield await burst(server)
    yield await overload(server, options.overload)
    yield await losses.lose_the_stub(server)


async def deaths(server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    for title, number in losses.LOSSES:
        yield await losses.lose_a_process(server, title, number)
    yield await losses.crash_loop(server)


async def killing(server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    yield await killers.same_killer(server)
    if not options.short:
        yield await killers.new_killers(server)


async def crowding(server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    """Through the frontend, whose one loop every client's text reaches, and through the ensemble."""
    with over(server) as url:
        front, plain = attacks.frontend(url), attacks.ensemble(server.url)
        rows = [(front, each) for each in attacks.on_frontend(front)]
        rows += [(plain, each) for each in attacks.on_ensemble(plain)]
        if options.short:
            rows = [each for each in rows if each[1][0] in SHORT_ATTACKS]
        for door, attack in rows:
            if not named(options, attack[0]):
                continue
            for row in attacks.under_attack(door, [attack], slack=options.slack):
                yield row
        dear = SHORT_PATTERNS if options.short else PATTERNS
        if named(options, patterns.name(dear)):
            yield patterns.crowd(front, dear, slack=options.slack)
    # The short form leaves out the minute in which the engine waits for a stopped one.
    for how, number in frontends.LOSSES[:1] if options.short else frontends.LOSSES:
        if named(options, frontends.name(how)):
            yield await frontends.lose_a_frontend(server, how, number, slack=options.slack)


# Servers of two nodes: one whose engine starts again, and one with `restart: pod`.
NODES, PODS = "nodes", "pods"


async def several_nodes(node: nodes.SecondNode, server: Server, options: argparse.Namespace) -> AsyncIterator[Row]:
    async for row in nodes.rows(server, node, short=options.short, wanted=partial(named, options)):
        yield row


# Each has a server of its own, and may leave it dead.
SERVERS: dict[str, Scenario] = {
    "cancels": cancellation,
    "overload": crowds,
    "losses": deaths,
    "killers": killing,
    "attacks": crowding,
}


async def one_server(server: Server, scenario: Scenario, options: argparse.Namespace, rows: list[Row]) -> None:
    # Every pool and thread is there before anything is counted.
    async with Load(server.url, server.grpc, width=WARM_WIDTH, tokens=20) as load:
        await asyncio.sleep(3)
        await load.stop()
    async for row in scenario(server, options):
        rows.append(row)
        show(row)


def show(row: Row) -> None:
    ended = ", ".join(f"{count} {kind}" for kind, count in sorted(row.endings.items()))
    print(f"| {row.name} | {row.runs} | {ended} | {row.measured} | {row.leaks} |", flush=True)
    for fault in row.faults:
        print(f"  BROKEN: {fault}", flush=True)
    tally.record(tally.Count("chaos", passed=int(not row.faults), failed=int(bool(row.faults))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
