"""Ids from the engine's token socket on a thread: asked for, passed on, and found again after a restart."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.triton.test_postprocess import until

from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.abort_channel import TOKENS, socket_path
from kimi_k2_serving.engine.token_socket import ReaderConnection, TokenSocket
from kimi_k2_serving.triton.chat.token_feed import TokenFeed


class Host:
    """The engine's end, on a loop of its own: it answers each Follow with two Outputs."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.socket = TokenSocket(
            patience=30, aborted=lambda *_: None, asked=self._ask, lost=lambda _: None, clock=time.monotonic
        )
        asyncio.run_coroutine_threadsafe(self.socket.open(path), self._loop).result(30)

    def _ask(self, reader: ReaderConnection, uid: str) -> None:
        self.asked.append(uid)
        reader.write(wire.frame(wire.Output(uid, [1, 2], 2)) + wire.frame(wire.Output(uid, [3], 3, end="stop")))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self.socket.close)
        time.sleep(0.1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()


Found = list[tuple[str, list[int], bool]]


@pytest.fixture
def found() -> Found:
    return []


@pytest.fixture
def feed(tmp_path: Path, found: Found) -> Iterator[TokenFeed]:
    now = iter(range(0, 1_000_000, 2))
    made = TokenFeed(tmp_path, lambda uid, ids, last: found.append((uid, list(ids), last)), clock=lambda: next(now))
    yield made
    made.close()


def test_ids_come_for_who_asks_and_again_after_a_restart(tmp_path: Path, feed: TokenFeed, found: Found) -> None:
    assert not feed.want("before")
    path = socket_path(tmp_path, "engine", TOKENS)
    for number in range(2):
        host = Host(path)
        assert feed.want("u")
        until(lambda number=number: len(found) == 2 * (number + 1))
        host.close()
        until(lambda: not feed._connections)
        assert not feed.want("after")
    assert found == [("u", [1, 2], False), ("u", [3], True)] * 2


def test_every_engine_model_is_asked(tmp_path: Path, feed: TokenFeed, found: Found) -> None:
    hosts = [Host(socket_path(tmp_path, name, TOKENS)) for name in ("one", "two")]
    assert feed.want("u")
    until(lambda: len(found) == 4)
    assert [host.asked for host in hosts] == [["u"], ["u"]]
    for host in hosts:
        host.close()


def test_a_host_that_reads_nothing_holds_nobody_up(tmp_path: Path, feed: TokenFeed) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path(tmp_path, "engine", TOKENS)))
    listener.listen()
    asked = [feed.want("u" * 64) for _ in range(5_000)]
    assert asked[0]
    assert not asked[-1], "the socket is full"
    listener.close()
