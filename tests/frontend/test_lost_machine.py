"""A machine that is gone closes no connection: who waits for a whole answer, which has no beats, is told by pings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from kimi_k2_serving.core import errors
from kimi_k2_serving.frontend import triton_engine
from kimi_k2_serving.frontend.triton_engine import CHANNEL, TritonEngine
from tests.frontend.test_triton_engine import Answer, chunks, run, triton

pytestmark = pytest.mark.anyio
# Milliseconds: after so long a silence a ping, and so long for its answer.
PING, PATIENCE = 400, 400


class Cable:
    """A connection through here to `port`. Cut, it carries nothing more, and says nothing of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._cut.set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.ensure_future(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if not self._cut.is_set():
                    sink.write(data)


@asynccontextmanager
async def far_away(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> AsyncIterator[tuple[TritonEngine, Cable]]:
    """The engine of a server at the other end of a cable, with pings every moment."""
    times = {
        "grpc.keepalive_time_ms": PING,
        "grpc.keepalive_timeout_ms": PATIENCE,
        "grpc.http2.ping_timeout_ms": PATIENCE,
    }
    monkeypatch.setattr(triton_engine, "CHANNEL", tuple((name, times.get(name, value)) for name, value in CHANNEL))
    async with triton(*answers) as (near, _):
        cable = Cable(int(near._address.rpartition(":")[2]))
        server = await asyncio.start_server(cable.connected, "127.0.0.1", 0)
        engine = TritonEngine(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await engine.open()
        try:
            yield engine, cable
        finally:
            await engine.close()
            server.close()
            await cable.close()


@pytest.mark.slow
@pytest.mark.parametrize("pings", [0, 5])
async def test_a_whole_answer_of_a_machine_that_is_gone_ends(monkeypatch: pytest.MonkeyPatch, pings: int) -> None:
    """Also when it goes after a long while in which nothing but pings was said."""
    async with far_away(monkeypatch, 60.0) as (engine, cable):
        asking = asyncio.create_task(chunks(engine, run(stream=False)))
        await asyncio.sleep(0.3 + pings * PING / 1000)
        cable.cut()
        begin = time.monotonic()
        with pytest.raises(errors.Unavailable):
            async with asyncio.timeout(20):
                await asking
        assert time.monotonic() - begin < 10


@pytest.mark.slow
async def test_a_whole_answer_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_away(monkeypatch, 3.0, {"output_ids": [8], "finish_reason": "stop"}) as (engine, _):
        (chunk,) = await chunks(engine, run(stream=False))
    assert chunk.ids == (8,)


def test_pings_come_no_sooner_than_triton_takes_them_and_find_out_in_less_than_six_minutes() -> None:
    options = dict(CHANNEL)
    assert options["grpc.keepalive_time_ms"] > 300_000
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] < 360_000
