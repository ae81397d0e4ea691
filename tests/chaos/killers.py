"""Requests that kill the engine, beside innocent ones: who is refused, who is served, and what is left of the engine.

A killer here is a stream whose first response makes this side kill the scheduler: to the server it is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import httpx
import psutil

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import BAD, ENGINE, WHOLE, GrpcStream, Outcome, engine_request
from tests.chaos.row import Row
from tests.server.running import Server

INNOCENTS = 6
QUARANTINED = "request_quarantined"
# Killers of ever new content: more than would put an engine down for good if they counted.
NEW_KILLERS = 7
# On a machine that does other things a restart may take two minutes.
LONGEST = 900.0


class Killing:
    """Clients of one server, and the deaths that they brought about."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self._server = server
        self._channel = channel
        self.outcomes: list[Outcome] = []
        self.deaths = 0
        self.over = False

    async def innocent(self, number: int) -> int:
        """The same request until it is served, then another, to the end; how many were served."""
        served = 0
        for turn in itertools.count():
            await self._until_served([50 + number, 60 + turn])
            served += 1
            if self.over:
                break
        return served

    async def _until_served(self, ids: list[int]) -> None:
        while True:
            if (await self._send(ids)).kind == WHOLE:
                return
            await asyncio.sleep(0.5)

    async def killer(self, ids: list[int]) -> Outcome:
        """Kills the engine once it has answered it anything."""
        return await self._send(ids, kills=True)

    async def _send(self, ids: list[int], *, kills: bool = False) -> Outcome:
        stream = GrpcStream(self._channel, engine_request(2000 if kills else 40, ids))
        outcome = await (stream.outcome(self._kill) if kills else stream.outcome())
        self.outcomes.append(outcome)
        return outcome

    def _kill(self) -> None:
        self.deaths += 1
        with contextlib.suppress(psutil.NoSuchProcess):
            self._server.named("sglang::scheduler").send_signal(signal.SIGKILL)


@contextlib.asynccontextmanager
async def killing(server: Server) -> AsyncIterator[tuple[Killing, list[int]]]:
    """Innocent clients around what is done to the server; the list is how many each was served, at the end."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        run = Killing(server, channel)
        innocent = [asyncio.create_task(run.innocent(number)) for number in range(INNOCENTS)]
        served: list[int] = []
        try:
            yield run, served
        finally:
            run.over = True
            served += await asyncio.wait_for(asyncio.gather(*innocent), LONGEST)


async def same_killer(server: Server) -> Row:
    """One killer, sent until it has been refused ten times."""
    before = inspecting.look(server)
    begin = time.monotonic()
    refused: list[Outcome] = []
    async with asyncio.timeout(LONGEST), killing(server) as (run, served):
        while len(refused) < 10:
            outcome = await run.killer([7, 7, 7])
            if outcome.kind == QUARANTINED:
                refused.append(outcome)
            else:
                await asyncio.sleep(0.5)
    return await judged(server, "a request that kills the engine, again and again", run, served, begin, before)


async def new_killers(server: Server) -> Row:
    """Killers of which no two are alike."""
    before = inspecting.look(server)
    begin = time.monotonic()
    async with asyncio.timeout(3 * LONGEST), killing(server) as (run, served):
        while run.deaths < NEW_KILLERS:
            await run.killer([8, 8, run.deaths])
            await asyncio.sleep(0.5)
    return await judged(server, "requests that kill the engine, each another", run, served, begin, before)


async def judged(
    server: Server, name: str, run: Killing, served: list[int], begin: float, before: inspecting.State
) -> Row:
    seconds = time.monotonic() - begin
    await inspecting.idle(server)
    probed = await asyncio.to_thread(
        httpx.post, server.generate(ENGINE), json={"input_ids": [5], "max_tokens": 1}, timeout=60
    )
    counted = Counter(each.kind for each in run.outcomes)
    row = Row(
        name,
        1,
        counted,
        f"{run.deaths} deaths in {seconds:.0f} s; {INNOCENTS} innocent clients were served {min(served)} to "
        f"{max(served)} times each",
        leaks=(await inspecting.settled(server, before)).leaks_since(before),
    )
    row.expect(probed.status_code == 200, "the engine must serve")
    row.expect(min(served) > 0, "the innocent must be served in the end")
    row.expect(not counted[BAD], "every request must end once")
    return row
