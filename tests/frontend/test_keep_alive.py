"""A keep-alive frame never comes after the end of its stream, where it would spoil the connection's next response."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from kimi_k2_serving.frontend.connections import Connection
from kimi_k2_serving.frontend.exchange import Sender
from kimi_k2_serving.frontend.service import Record

pytestmark = pytest.mark.anyio
IDLE = b": idle\n\n"
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def sender(send: Send) -> Sender:
    return Sender(send, {}, Record("r", "/", "GET", 0.0), time.monotonic(), idle=IDLE)


async def test_a_keep_alive_that_was_due_as_the_stream_ended_is_not_sent() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    stream = sender(send)
    await stream.stream(b"data")
    stream.keep_alive()
    stream.idle = b""
    await stream.end()
    await asyncio.sleep(0.01)
    assert [each.get("body") for each in sent] == [None, b"data", b""]


async def test_a_quiet_stream_gets_its_keep_alive() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    stream = sender(send)
    stream.keep_alive()
    await asyncio.sleep(0.01)
    assert sent[-1]["body"] == IDLE


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


async def said(application: Any) -> tuple[bytes, Connection]:
    """What one request is answered."""
    config = Config(application, access_log=False, lifespan="off")
    config.load()
    state, transport = ServerState(), Transport()
    connection = Connection(config=config, server_state=state, app_state={})
    connection.connection_made(transport)
    connection.data_received(HEAD)
    await asyncio.wait(state.tasks, timeout=30)
    connection.connection_lost(None)
    return transport.written, connection


@pytest.mark.parametrize("paused", [False, True])
async def test_a_piece_behind_the_last_one_is_not_written(paused: bool) -> None:
    """`paused`: it waits until the client reads on, and meanwhile the stream ends."""
    connections: list[Connection] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        connection = cast("Connection", scope["kimi_k2.proven"].__self__)  # type: ignore[attr-defined]
        connections.append(connection)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        if paused:
            connection.flow.pause_writing()
        late = asyncio.ensure_future(send({"type": "http.response.body", "body": IDLE, "more_body": True}))
        if paused:
            await asyncio.sleep(0)
            connection.flow.resume_writing()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await asyncio.gather(late, return_exceptions=True)

    written, _ = await said(application)
    assert written.endswith(b"4\r\ndata\r\n0\r\n\r\n")
