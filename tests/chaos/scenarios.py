"""The faults. Each takes the running server and returns one `Row` of the table; no `faults` means the promise held."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import (
    BAD,
    REFUSED_BY_TRITON,
    WHOLE,
    GrpcStream,
    Load,
    Outcome,
    engine_request,
    http_stream,
    plain_stream,
)
from tests.server.running import Server

# A killed process is seen at once, a stopped one after the demo preset's stall_seconds.
ERROR_SECONDS = 2.0
STALL_SECONDS = 15.0
WIDTH = 16


@dataclass(slots=True)
class Row:
    name: str
    runs: int
    endings: Counter[str]
    measured: str
    leaks: str = "none"
    faults: list[str] = field(default_factory=list)

    def expect(self, held: bool, what: str) -> None:
        if not held:
            self.faults.append(what)


def quantiles(seconds: Iterable[float]) -> str:
    """p50, p99 and the largest, in ms."""
    ordered = sorted(seconds)
    if not ordered:
        return "no samples"
    middle, late = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {middle * 1e3:.0f}, p99 {late * 1e3:.0f}, max {ordered[-1] * 1e3:.0f} ms"


async def answers(server: Server) -> bool:
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.post(server.generate("kimi_k2_engine"), json={"input_ids": [5], "max_tokens": 1})
        return response.status_code == 200


def server_is_down(server: Server) -> bool:
    response = httpx.post(server.generate("kimi_k2_engine"), json={"input_ids": [5], "max_tokens": 1}, timeout=60)
    return "engine_" in response.text


async def serves_again(server: Server, since: float) -> float:
    while not await answers(server):
        if time.monotonic() - since > 240:
            raise TimeoutError("the engine did not come back")
        await asyncio.sleep(0.1)
    return time.monotonic() - since


async def lose_a_process(server: Server, title: str, number: signal.Signals) -> Row:
    """Kill or stop one of the engine's processes under load."""
    before = inspecting.look(server)
    stall = STALL_SECONDS if number is signal.SIGSTOP else 0.0
    async with Load(server.url, server.grpc, width=WIDTH, tokens=400) as load:
        await asyncio.sleep(3)
        in_flight = load.flying
        hit = time.monotonic()
        server.named(title).send_signal(number)
        if stall:
            await inspecting.until(lambda: server_is_down(server), ERROR_SECONDS + stall)
        again = await serves_again(server, hit)
        await asyncio.sleep(1)
        await load.stop()
    start = inspecting.last_start(server)
    lost = [each for each in load.outcomes if each.kind == "engine_lost"]
    late = max((each.ended - hit for each in lost), default=0.0)
    refused = [each.seconds for each in load.outcomes if each.kind == "engine_unavailable"]
    await inspecting.idle(server)
    row = Row(
        f"{number.name} {title}",
        1,
        load.counted(since=hit),
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; refusals {quantiles(refused)}; "
        f"served again after {again:.1f} s, of them {start:.1f} s to start",
        leaks=(await inspecting.settled(server, before)).leaks_since(before),
    )
    allowed = ERROR_SECONDS + stall
    row.expect(0 < late < allowed, f"errors must come within {allowed:g} s")
    row.expect(again < start + 3 + stall, "it must serve again within its start time and 3 s")
    row.expect(not load.counted()[BAD], "every request must end once")
    return row


async def overload(server: Server, seconds: float) -> Row:
    """Ten times more clients than places."""
    before = inspecting.look(server)
    begin = time.monotonic()
    outcomes: list[Outcome] = []

    async def client(number: int) -> None:
        path = "/v2/models/kimi_k2_engine/generate_stream"
        body = {"input_ids": [number % 4000, 7], "stream": True, "ignore_eos": True, "max_tokens": 64}
        while time.monotonic() - begin < seconds:
            outcome = await plain_stream(server.http, path, body)
            outcomes.append(outcome)
            await asyncio.sleep(random.random() * (4 if outcome.kind == "overloaded" else 0.1))

    peak = 0.0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, (await asyncio.to_thread(inspecting.look, server)).memory)
            await asyncio.sleep(2)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(number) for number in range(OVERLOAD_CLIENTS)))
    watching.cancel()
    await inspecting.idle(server)
    after = await inspecting.settled(server, before)
    refused = [each.seconds for each in outcomes if each.kind == "overloaded" and each.seconds < 10]
    counted = Counter(each.kind for each in outcomes)
    row = Row(
        f"overload, {OVERLOAD_CLIENTS} clients, {seconds:g} s",
        1,
        counted,
        f"refused at once: {quantiles(refused)}; RSS {before.memory:.0f} -> {peak:.0f} -> {after.memory:.0f} MiB",
        leaks=after.leaks_since(before),
    )
    row.expect(counted["overloaded"] > 0 and counted[WHOLE] > 0, "some must be served and some refused")
    row.expect(set(counted) <= {WHOLE, "overloaded"}, "every request must end whole or with `overloaded`")
    return row


# The demo preset has 256 places, those in the queue included.
OVERLOAD_CLIENTS = 2560


async def slow_readers(server: Server, count: int) -> Row:
    """Streams that nobody reads, beside ones that somebody does."""
    before = inspecting.look(server)
    unread = []
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http, limit=1024)
        body = f'{{"input_ids": [{number}, 9], "stream": true, "ignore_eos": true, "max_tokens": 2000}}'.encode()
        head = (
            f"POST /v2/models/kimi_k2_engine/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        unread.append((reader, writer))
    async with Load(server.url, server.grpc, width=4, tokens=100) as load:
        await asyncio.sleep(10)
        await load.stop()
    held = inspecting.look(server).memory - before.memory
    for _, writer in unread:
        writer.transport.abort()
    await inspecting.idle(server, 120)
    after = await inspecting.settled(server, before)
    counted = load.counted()
    row = Row(
        f"{count} slow readers",
        1,
        counted,
        f"RSS grew by {held:.0f} MiB while they held their streams; the others were served",
        leaks=after.leaks_since(before),
    )
    row.expect(counted[WHOLE] > 0 and set(counted) <= {WHOLE}, "nobody else may suffer")
    row.expect(held < 200, "memory must stay flat")
    return row


PHASES = ("queued", "prefill", "decode")


async def cancels(server: Server, runs: int, seed: int = 6) -> list[Row]:
    """gRPC cancellations at a random moment of each phase, and what remains of them."""
    before = inspecting.look(server)
    chance = random.Random(seed)
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}")
    for number in range(runs):
        phase = PHASES[number % len(PHASES)]
        times[phase].append(await cancel_once(server, channel, phase, chance))
    idle = await inspecting.idle(server)
    await channel.close()
    after = await inspecting.settled(server, before)
    rows = []
    for phase in PHASES:
        row = Row(
            f"cancel while in {phase}", len(times[phase]), Counter(), quantiles(times[phase]), after.leaks_since(before)
        )
        row.expect(sorted(times[phase])[int(len(times[phase]) * 0.99) - 1] <= 0.4, "250 ms, and 150 ms of metrics' age")
        rows.append(row)
    rows[-1].measured += f"; engine idle, KV at baseline {idle:.1f} s after the last"
    return rows


async def cancel_once(server: Server, channel: Any, phase: str, chance: random.Random) -> float:
    """From the client's cancel to the server's count of it, whose page is up to 150 ms old."""
    crowd = []
    length = {"queued": 10, "prefill": 4000, "decode": 10}[phase]
    if phase == "queued":
        crowd = [GrpcStream(channel, engine_request(400, [number, 3])) for number in range(64)]
        readers = [asyncio.create_task(each.outcome()) for each in crowd]
        await asyncio.sleep(0.5)
    counted = inspecting.metrics(server).get("sglang_backend:requests:cancelled", 0)
    ids = [chance.randrange(4000) for _ in range(length)]
    stream = GrpcStream(channel, engine_request(2000, ids, heartbeat_ms=100))
    outcome = asyncio.create_task(stream.outcome())
    await asyncio.wait_for(stream.arrived.wait(), 60)
    await asyncio.sleep(chance.random() * 0.5)
    begin = time.monotonic()
    stream.cancel()
    key = "sglang_backend:requests:cancelled"
    await inspecting.until(lambda: inspecting.metrics(server).get(key, 0) > counted, 30)
    seconds = time.monotonic() - begin
    await outcome
    if crowd:
        for each in crowd:
            each.cancel()
        await asyncio.gather(*readers)
        await inspecting.idle(server)
    return seconds


async def drain(server: Server, grace: float) -> Row:
    """SIGTERM under load: the last scenario of a server. Short streams are whole, long ones get one error."""
    outcomes: list[Outcome] = []
    async with httpx.AsyncClient(timeout=60) as http:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}")
        short = [GrpcStream(channel, engine_request(60, [number, 1])) for number in range(4)]
        long = [GrpcStream(channel, engine_request(20_000, [number, 2])) for number in range(4)]
        chats = [
            http_stream(
                http,
                server.generate(stream=True),
                {"text_input": "Hello", "stream": True, "ignore_eos": True, "max_tokens": tokens},
            )
            for tokens in (60, 60, 20_000, 20_000)
        ]
        tasks = [asyncio.create_task(each) for each in [*(stream.outcome() for stream in [*short, *long]), *chats]]
        await asyncio.sleep(0.5)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        late = GrpcStream(channel, engine_request(5, [1]))
        late_outcome = await asyncio.wait_for(late.outcome(), 30)
        outcomes = await asyncio.gather(*tasks)
        await asyncio.to_thread(server.process.wait, 60)
        ended = time.monotonic() - begin
        await channel.close()
    counted = Counter(each.kind for each in outcomes)
    row = Row(
        f"SIGTERM, grace {grace:g} s",
        1,
        counted,
        f"a new request: {late_outcome.kind} after {late_outcome.seconds * 1e3:.0f} ms; gone after {ended:.1f} s",
    )
    row.expect(counted == {WHOLE: 6, "shutting_down": 6}, "six whole, six with one error")
    row.expect(late_outcome.kind in ("shutting_down", REFUSED_BY_TRITON, "cancelled"), "a new request must be refused")
    row.expect(server.process.returncode == 0, "serve must exit with 0")
    return row
