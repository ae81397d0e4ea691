"""Readers that do not read, and the drain. Each takes the running server and returns one `Row` of the table."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import grpc
import httpx

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import REFUSED_BY_TRITON, WHOLE, GrpcStream, Load, Outcome, engine_request, http_stream
from tests.chaos.row import Row
from tests.server.running import Server


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
