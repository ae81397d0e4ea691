"""Cancellations and deadlines, in every phase of a request and over every transport: how soon the server lets go.

A cancel is timed from the client's side to the server's count of it on /metrics, a page up to 100 ms old; a deadline by
its error's arrival. Over HTTP, and through the ensemble, Triton notices at the next response: streams there ask for a
heartbeat every HEARTBEAT_MS.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import ENGINE, GrpcStream, HttpStream, engine_request, named_request, prepared_request
from tests.chaos.row import Row, quantile, quantiles
from tests.server.running import Server

ADMITTED, QUEUED, PREFILL, DECODE, TOOL_CALL = PHASES = ("admitted", "queued", "prefill", "decode", "tool call")
GRPC, DEADLINE, HTTP, GRPC_CHAT, HTTP_CHAT = TRANSPORTS = (
    "gRPC, engine",
    "timeout_ms, engine",
    "HTTP, engine",
    "gRPC, ensemble",
    "HTTP, ensemble",
)
HEARTBEAT_MS = 100
PROMISE_SECONDS = 0.25
METRICS_AGE_SECONDS = 0.1
# The demo preset's chunk takes at most 1 s on two quiet cores.
CHUNK_SECONDS = 5.0
# As many as the demo preset lets work at a time.
CROWD = 96
# A cancel may overtake its request, which then never reaches the engine's model.
UNSEEN_SECONDS = 3.0
Stream = GrpcStream | HttpStream
STREAM: dict[str, Any] = {"stream": True, "ignore_eos": True, "max_tokens": 1500}
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 300}
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {
            "type": "object",
            "properties": {"numbers": NUMBERS},
            "required": ["numbers"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True, slots=True)
class Cell:
    phase: str
    transport: str

    @property
    def bound(self) -> float:
        """Seconds. Aborted by uid, a request counts as ended when SGLang says so: no sooner than at the end of a
        chunk of its prompt.
        """
        if self.transport == DEADLINE:
            return PROMISE_SECONDS
        if self.phase == PREFILL and self.transport in (GRPC_CHAT, HTTP_CHAT):
            return CHUNK_SECONDS
        waits = 0.0 if self.transport == GRPC else HEARTBEAT_MS / 1000
        return PROMISE_SECONDS + METRICS_AGE_SECONDS + waits


def plan(runs: int) -> Iterator[Cell]:
    """`runs` cells, phase by phase: those of one phase share what it needs. With few, the engine's own first."""
    transports = TRANSPORTS if runs >= len(PHASES) * len(TRANSPORTS) else TRANSPORTS[:2]
    cells = [Cell(phase, transport) for phase in PHASES for transport in transports]
    # Over HTTP nobody can hand the engine's model the grammar that preprocess makes.
    cells = [cell for cell in cells if cell != Cell(TOOL_CALL, HTTP)]
    for cell in cells:
        yield from [cell] * max(1, round(runs / len(cells)))


async def cancels(server: Server, runs: int, *, slack: float = 1.0, seed: int = 6) -> AsyncIterator[Row]:
    """At a random moment of each phase; then what is left of them. `slack` times the promise is allowed."""
    before = inspecting.look(server)
    together: list[float] = []
    cells = list(plan(runs))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        bench = Bench(server, channel, random.Random(seed))
        for phase in PHASES:
            async with bench.prepared(phase):
                for cell in dict.fromkeys(cell for cell in cells if cell.phase == phase):
                    times = [await bench.run(cell) for _ in range(cells.count(cell))]
                    seen = [seconds for seconds in times if seconds is not None]
                    together += seen
                    yield judged(cell, len(times), seen, slack)
    idle = await inspecting.idle(server)
    after = await inspecting.settled(server, before)
    measured = f"{quantiles(together)}; engine idle, KV at baseline {idle:.1f} s after the last"
    yield Row("cancel, all", len(cells), Counter(), measured, after.leaks_since(before))


def judged(cell: Cell, runs: int, seen: list[float], slack: float) -> Row:
    overtaken = f"; {runs - len(seen)} overtook their request" if len(seen) < runs else ""
    row = Row(f"cancel, {cell.phase}: {cell.transport}", runs, Counter(), quantiles(seen) + overtaken)
    row.expect(quantile(seen, 0.99) <= cell.bound * slack, f"within {cell.bound * slack * 1e3:.0f} ms")
    return row


class Bench:
    def __init__(self, server: Server, channel: Any, chance: random.Random) -> None:
        self._server = server
        self._channel = channel
        self._chance = chance

    @asynccontextmanager
    async def prepared(self, phase: str) -> AsyncIterator[None]:
        """For `queued`, a crowd in front of it, gone afterwards."""
        if phase != QUEUED:
            yield
            return
        crowd = [
            GrpcStream(self._channel, engine_request(1500, [number, 3], stream=False, request_priority=1))
            for number in range(CROWD)
        ]
        waiting = [asyncio.create_task(each.outcome()) for each in crowd]
        await asyncio.sleep(1)
        try:
            yield
        finally:
            for each in crowd:
                each.cancel()
            await asyncio.gather(*waiting)
            await inspecting.idle(self._server)

    async def run(self, cell: Cell) -> float | None:
        """Seconds from the cancel to its count, or from the deadline to its error; None if there was nothing to see."""
        if cell.transport == DEADLINE:
            return await self._deadline(cell.phase)
        counted = await self._count()
        stream = await self._stream(cell)
        outcome = asyncio.create_task(stream.outcome())
        if cell.phase == ADMITTED:
            await asyncio.sleep(self._chance.random() * 0.02)
        else:
            await asyncio.wait_for(stream.arrived.wait(), 60)
            await asyncio.sleep(self._chance.random() * 0.3)
        begin = time.monotonic()
        stream.cancel()
        seconds = await self._counted_since(counted, begin)
        with suppress(asyncio.CancelledError):
            await outcome
        return seconds

    async def _deadline(self, phase: str) -> float:
        limit = 5 if phase == ADMITTED else self._chance.randint(100, 600)
        request = await self._request(phase, timeout_ms=limit)
        outcome = await GrpcStream(self._channel, request).outcome()
        if outcome.kind != "deadline_exceeded":
            raise AssertionError(f"a deadline in {phase} ended with {outcome.kind}")
        return outcome.seconds - limit / 1000

    async def _stream(self, cell: Cell) -> Stream:
        if cell.transport == GRPC:
            return GrpcStream(self._channel, await self._request(cell.phase, heartbeat_ms=HEARTBEAT_MS))
        if cell.transport == HTTP:
            body = {"input_ids": self._ids(cell.phase), **STREAM, "heartbeat_ms": HEARTBEAT_MS}
            return HttpStream(self._server.http, f"/v2/models/{ENGINE}/generate_stream", body)
        body = {**self._chat(cell.phase), "heartbeat_ms": HEARTBEAT_MS}
        if cell.transport == GRPC_CHAT:
            return GrpcStream(self._channel, named_request("kimi_k2", body))
        return HttpStream(self._server.http, "/v2/models/kimi_k2/generate_stream", body)

    async def _request(self, phase: str, **integers: int) -> Any:
        """To the engine's model. A tool call's grammar is what preprocess makes of the chat."""
        if phase == TOOL_CALL:
            return await prepared_request(self._channel, self._chat(phase), **integers)
        return engine_request(STREAM["max_tokens"], self._ids(phase), **integers)

    def _chat(self, phase: str) -> dict[str, Any]:
        words = 2000 if phase == PREFILL else 5
        chat = {"text_input": " ".join(str(self._chance.randrange(10**6)) for _ in range(words)), **STREAM}
        return {**chat, "tools": json.dumps([TOOL]), "tool_choice": "required"} if phase == TOOL_CALL else chat

    def _ids(self, phase: str) -> list[int]:
        """Random: nothing of it is in the prefix cache."""
        return [self._chance.randrange(4000) for _ in range(8000 if phase == PREFILL else 10)]

    async def _count(self) -> float:
        found = await asyncio.to_thread(inspecting.metrics, self._server)
        return sum(found.get(f"sglang_backend:requests:{outcome}", 0) for outcome in ("cancelled", "aborted"))

    async def _counted_since(self, counted: float, begin: float) -> float | None:
        """A cancel that overtook its request leaves nothing to count."""
        while await self._count() <= counted:
            if time.monotonic() - begin > UNSEEN_SECONDS:
                return None
            await asyncio.sleep(0.005)
        return time.monotonic() - begin
