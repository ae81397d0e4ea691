"""Two nodes with `restart: pod`: a death ends both, with codes that say why. This test then is the orchestrator."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import BAD, WHOLE, Load
from tests.chaos.losses import ERROR_SECONDS, answers, ended, lost_since
from tests.chaos.nodes import PRESET, TOKENS, WIDTH, SecondNode, alive, kill, second_node
from tests.chaos.row import Row
from tests.server.running import ROOT, Server, running, titles

NAME = "two nodes, restart: pod: SIGKILL rank 1's scheduler, and create both anew"
# Rank 0's Triton has this long to answer requests in flight, of which there are none by then, and to unload.
END_SECONDS = 40.0
SAID = "the engine of kimi_k2_engine has ended, and restart is pod"


async def final_death() -> Row:
    row = Row(NAME, 1, Counter(), "")
    with second_node() as node:
        flags = ("--preset", PRESET, "--grace", "8")
        try:
            node.start()
            with running(*flags, **node.of_rank_0, KIMI_K2_RESTART="pod") as server:
                await die(row, server, node)
            begin = time.monotonic()
            node.start()
            with running(*flags, **node.of_rank_0, KIMI_K2_RESTART="pod") as server:
                row.expect(await answers(server), "both must serve again when they are created anew")
                row.measured += f"; both created anew served after {time.monotonic() - begin:.1f} s"
                code = await asyncio.to_thread(node.stop)
                row.expect(code == 0, "SIGTERM must end a worker with 0")
        finally:
            node.end()
    return row


async def die(row: Row, server: Server, node: SecondNode) -> None:
    processes = [*server.processes(), *node.processes()]
    async with Load(server.url, server.grpc, width=WIDTH, tokens=TOKENS) as load:
        await asyncio.sleep(3)
        moment, in_flight = time.monotonic(), load.flying
        kill(node.named("sglang::scheduler"))
        with contextlib.suppress(TimeoutError):
            await inspecting.until(lambda: len(lost_since(load, moment)[0]) == in_flight, 2 * ERROR_SECONDS)
        # Later ones find a server that is going, or gone.
        await load.stop()
    theirs = await asyncio.to_thread(node.code, END_SECONDS)
    ours = await ended(server, END_SECONDS)
    gone = time.monotonic() - moment
    lost, late = lost_since(load, moment)
    met = Counter(each.kind for each in load.outcomes if each.began < moment)
    row.endings = load.counted(since=moment)
    row.measured = (
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; the server ended with {ours}, "
        f"the worker with {theirs}, all of it after {gone:.1f} s"
    )
    left = alive(processes)
    row.leaks = ", ".join(map(titles, left)) or "none"
    said = (ROOT / ".cache" / "logs" / f"test-serve-{server.http}.log").read_text()
    row.expect(len(lost) == in_flight and late < ERROR_SECONDS, "every request in flight must be lost at once")
    row.expect(set(met) <= {WHOLE, "engine_lost"} and not load.counted()[BAD], "every request must end once")
    row.expect((ours, theirs) == (1, 1), "both must end with 1")
    row.expect(SAID in said, "the server must say why")
    row.expect(not left, "no process may be left")
