"""More clients than places: how soon a refusal is there, at the client and in the backend, and what it costs.

Over gRPC: of thousands of answers in the same moment Triton 24.10's HTTP loses some, see docs/deployment.md.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass

import grpc
import httpx

from tests.chaos import inspect_server as inspecting
from tests.chaos.inspect_server import State
from tests.chaos.load import ENGINE, WHOLE, GrpcStream, Outcome, engine_request
from tests.chaos.row import Row, quantiles
from tests.server.running import Server

# The demo preset has 256 places, those in the queue included: ten times as many.
CLIENTS = 2560
TOKENS = 16
CONNECTIONS = 8
# A refusal by the door says so at once; one by the queue's time limit comes after it, and is none of these.
AT_ONCE_SECONDS = 10.0
PROMISE_SECONDS = 0.05
BUCKET = "sglang_backend:refusal_seconds_bucket:"


@dataclass(frozen=True, slots=True)
class Backend:
    """Counts so far: refusals by their upper bound in seconds, requests and their wait in Triton in ns."""

    refusals: dict[float, float]
    requests: int
    queued_ns: int

    @classmethod
    def look(cls, server: Server) -> Backend:
        found = inspecting.metrics(server)
        stats = httpx.get(f"{server.url}/v2/models/{ENGINE}/stats", timeout=60).json()["model_stats"][0]
        queue = stats["inference_stats"]["queue"]
        buckets = {float(name.removeprefix(BUCKET)): count for name, count in found.items() if name.startswith(BUCKET)}
        return cls(buckets, int(queue["count"]), int(queue["ns"]))

    def since(self, before: Backend) -> str:
        refused = {bound: count - before.refusals.get(bound, 0) for bound, count in sorted(self.refusals.items())}
        total = max(refused.values(), default=0)
        within = next((bound for bound, count in refused.items() if count >= 0.99 * total), 0.0)
        requests = max(1, self.requests - before.requests)
        waited = (self.queued_ns - before.queued_ns) / requests / 1e6
        return f"in the backend p99 <= {within * 1e3:g} ms, waiting in Triton {waited:.1f} ms on average"


class Crowd:
    """CLIENTS of them over a few connections."""

    def __init__(self, server: Server) -> None:
        # Channels with the same arguments would share one connection.
        self._channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}", options=[("crowd", number)])
            for number in range(CONNECTIONS)
        ]

    async def ask(self, number: int) -> Outcome:
        request = engine_request(TOKENS, [number % 4000, 7])
        return await GrpcStream(self._channels[number % CONNECTIONS], request).outcome()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def burst(server: Server) -> Row:
    """All clients in the same moment, once."""
    before, backend = inspecting.look(server), Backend.look(server)
    crowd = Crowd(server)
    outcomes = await asyncio.gather(*(crowd.ask(number) for number in range(CLIENTS)))
    await crowd.close()
    row = await judged(server, f"burst of {CLIENTS}", outcomes, before, before.memory)
    row.measured += f"; {Backend.look(server).since(backend)}"
    return row


async def overload(server: Server, seconds: float) -> Row:
    """Ten times the places, each client with one request at a time; a refused one waits as it was told to."""
    before, backend = inspecting.look(server), Backend.look(server)
    crowd = Crowd(server)
    begin, peak, outcomes = time.monotonic(), before.memory, list[Outcome]()

    async def client(number: int) -> None:
        await asyncio.sleep(random.random() * seconds / 2)
        while time.monotonic() - begin < seconds:
            outcome = await crowd.ask(number)
            outcomes.append(outcome)
            left = begin + seconds - time.monotonic()
            await asyncio.sleep(min(outcome.retry_after * (1 + random.random() / 2), max(0.0, left)))

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, (await asyncio.to_thread(inspecting.look, server)).memory)
            await asyncio.sleep(2)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    watching.cancel()
    await crowd.close()
    row = await judged(server, f"overload, {CLIENTS} clients, {seconds:g} s", outcomes, before, peak)
    row.measured += f"; {Backend.look(server).since(backend)}"
    return row


async def judged(server: Server, name: str, outcomes: list[Outcome], before: State, peak: float) -> Row:
    await inspecting.idle(server, 120)
    after = await inspecting.settled(server, before)
    refused = [each.seconds for each in outcomes if each.kind == "overloaded" and each.seconds < AT_ONCE_SECONDS]
    counted = Counter(each.kind for each in outcomes)
    at_once = sum(each <= PROMISE_SECONDS for each in refused) / max(1, len(refused))
    row = Row(
        name,
        1,
        counted,
        f"refused at the client: {quantiles(refused)}, {at_once:.0%} within {PROMISE_SECONDS * 1e3:g} ms; "
        f"RSS {before.memory:.0f} -> {peak:.0f} -> {after.memory:.0f} MiB",
        leaks=after.leaks_since(before),
    )
    row.expect(counted["overloaded"] > 0 and counted[WHOLE] > 0, "some must be served and some refused")
    row.expect(set(counted) <= {WHOLE, "overloaded"}, "every request must end whole or with `overloaded`")
    return row
