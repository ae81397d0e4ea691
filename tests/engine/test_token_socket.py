"""The socket on which the host sends ids to frontends: to whom they go, who may abort, and who is disconnected."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kimi_k2_serving.engine import token_socket, wire
from kimi_k2_serving.engine.token_socket import ReaderConnection, TokenSocket

PATIENCE = 30.0
pytestmark = pytest.mark.anyio


@dataclass
class Host:
    """A socket whose clock stands still, and what it reports."""

    path: Path
    now: float = 0.0
    aborted: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    frontends: list[Frontend] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = TokenSocket(
            patience=PATIENCE,
            aborted=lambda reader, uid: self.aborted.append((reader.token, uid)),
            asked=lambda reader, uid: self.asked.append((reader.token, uid)),
            lost=lambda reader: self.lost.append(reader.token),
            clock=lambda: self.now,
        )

    def connect(self) -> Frontend:
        self.frontends.append(Frontend(self.path))
        return self.frontends[-1]

    def connected(self, token: str) -> ReaderConnection:
        found = self.socket.reader(token)
        assert found is not None
        return found


@asynccontextmanager
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    found = Host(tmp_path / "engine.tokens")
    await found.socket.open(found.path)
    try:
        yield found
    finally:
        found.socket.close()
        for each in found.frontends:
            each.socket.close()


class Frontend:
    """The other end of a connection. It reads only when it is asked to."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self._frames = wire.FrameReader(wire.ToReader)

    async def read(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 1 << 16), 30)

    async def next(self) -> list[wire.ToReader]:
        while data := await self.read():
            if messages := self._frames.feed(data):
                return messages
        return []

    async def claim(self) -> str:
        (message,) = await self.next()
        assert isinstance(message, wire.Claim)
        return message.token


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


def output(uid: str, token: int = 5) -> bytes:
    return wire.frame(wire.Output(uid, [token], 1))


def unread(reader: ReaderConnection) -> int:
    """The bytes that the kernel has not taken yet."""
    assert reader._transport is not None
    return reader._transport.get_write_buffer_size()


def fill(reader: ReaderConnection) -> None:
    """More than the kernel takes for a reader that does not read."""
    for _ in range(64):
        reader.write(bytes(1 << 16))


async def test_ids_go_to_the_reader_whose_claim_the_request_named_and_to_no_other(tmp_path: Path) -> None:
    async with host(tmp_path) as it:
        one, two = it.connect(), it.connect()
        first, second = await one.claim(), await two.claim()
        assert len({first, second}) == 2
        it.connected(second).write(output("b"))
        it.connected(first).write(output("a"))
        assert [each.uid for each in await one.next() if isinstance(each, wire.Output)] == ["a"]
        assert [each.uid for each in await two.next() if isinstance(each, wire.Output)] == ["b"]
        assert it.socket.reader("") is it.socket.reader(first[:-1]) is None, "a claim can't be guessed by its beginning"


async def test_an_abort_says_who_asked_for_it(tmp_path: Path) -> None:
    async with host(tmp_path) as it:
        frontend = it.connect()
        token = await frontend.claim()
        frontend.socket.sendall(wire.frame(wire.Abort("a")) + b"\x00\x00\x00\x01x" + wire.frame(wire.Abort("b")))
        await until(lambda: len(it.aborted) == 2)
        assert it.aborted == [(token, "a"), (token, "b")], "a message that can't be read is passed over"


async def gone(frontend: Frontend, it: Host) -> None:
    frontend.socket.close()


async def foreign(frontend: Frontend, it: Host) -> None:
    frontend.socket.sendall(b"\xff\xff\xff\xff")


async def stopped(frontend: Frontend, it: Host) -> None:
    """A process that SIGSTOP stopped reads nothing."""
    (reader,) = it.socket._readers.values()
    fill(reader)
    it.socket.drop_stalled()
    it.now += PATIENCE
    it.socket.drop_stalled()
    assert not it.lost, "it has this long"
    it.now += 0.1
    it.socket.drop_stalled()


async def behind(frontend: Frontend, it: Host) -> None:
    (reader,) = it.socket._readers.values()
    for _ in range(token_socket.BACKLOG_BYTES // 2**20 + 2):
        reader.write(bytes(2**20))


@pytest.mark.parametrize("leave", [gone, foreign, stopped, behind])
async def test_a_reader_that_leaves_is_reported_once_and_its_claim_is_void(
    tmp_path: Path, leave: Callable[[Frontend, Host], Awaitable[None]]
) -> None:
    async with host(tmp_path) as it:
        frontend = it.connect()
        token = await frontend.claim()
        reader = it.connected(token)
        await leave(frontend, it)
        await until(lambda: bool(it.lost))
        assert it.socket.reader(token) is None
        other = it.connect()
        assert await other.claim() != token
        it.socket.drop_stalled()
        reader.drop()
        await asyncio.sleep(0.01)
        assert it.lost == [token]


async def test_a_reader_that_reads_slowly_stays_and_delays_nobody(tmp_path: Path) -> None:
    async with host(tmp_path) as it:
        slow, quick = it.connect(), it.connect()
        token, other = await slow.claim(), await quick.claim()
        fill(it.connected(token))
        it.connected(other).write(output("a"))
        assert len(await quick.next()) == 1
        for _ in range(8):
            it.socket.drop_stalled()
            it.now += PATIENCE - 1
            waiting = unread(it.connected(token))
            while unread(it.connected(token)) == waiting:
                assert await slow.read()
        it.socket.drop_stalled()
        assert it.lost == []


async def test_a_process_of_another_user_gets_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_socket, "peer_user", lambda _: os.geteuid() + 1)
    async with host(tmp_path) as it:
        assert await it.connect().next() == []
        assert it.lost == []


async def test_the_socket_lies_in_a_private_directory_and_replaces_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "private" / "engine.tokens"
    path.parent.mkdir(mode=0o700)
    path.write_text("left")
    it = Host(path)
    await it.socket.open(path)
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o077 == 0
    it.socket.close()
