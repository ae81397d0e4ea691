"""Ids from the engine's socket and the end through Triton: one answer, whole, in order, with one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import EngineLost, Overloaded
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.port import End, EndReason
from kimi_k2_serving.engine.token_socket import TokenSocket
from kimi_k2_serving.frontend import token_reader
from kimi_k2_serving.frontend.token_reader import Inbox, TokenReader

END = End(EndReason.STOP, None)


async def all_of(inbox: Inbox) -> tuple[list[int], int]:
    """All ids, and how many chunks had an end."""
    ids: list[int] = []
    ends = 0
    while not ends:
        chunk = await inbox.take()
        ids += chunk.ids
        ends += chunk.end is not None
    return ids, ends


@given(
    st.integers(0, 12),
    st.sets(st.integers(0, 12)),
    st.integers(0, 12),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_the_answer_is_the_same_whenever_its_end_comes(
    total: int, cuts: set[int], when: int, turns: list[bool]
) -> None:
    """`when`: before which message the end comes through Triton. `turns`: after which messages the reader runs."""

    async def run() -> None:
        inbox = Inbox()
        reading = asyncio.create_task(all_of(inbox))
        edges = sorted({0, total, *(each for each in cuts if each < total)})
        messages = [list(range(*each)) for each in pairwise(edges)]
        turn = iter(turns)
        for number, ids in enumerate([*messages, None]):
            if number == min(when, len(messages)):
                inbox.end(END, total)
            if next(turn):
                await asyncio.sleep(0)
            if ids is not None:
                inbox.put(ids)
            if next(turn):
                await asyncio.sleep(0)
        assert await asyncio.wait_for(reading, 30) == (list(range(total)), 1)
        inbox.close()

    asyncio.run(run())


def test_an_error_comes_after_everything_that_came_before_it() -> None:
    async def run() -> None:
        inbox = Inbox()
        inbox.put([1, 2])
        inbox.fail(Overloaded("full"))
        assert (await inbox.take()).ids == (1, 2)
        with pytest.raises(Overloaded):
            await inbox.take()

    asyncio.run(run())


def test_an_answer_waits_for_its_rest_as_long_as_ids_still_come() -> None:
    async def run() -> None:
        inbox = Inbox(rest=1.0)
        reading = asyncio.create_task(all_of(inbox))
        inbox.end(END, 6)
        for token in range(6):
            await asyncio.sleep(0.25)
            inbox.put([token])
        assert await reading == ([0, 1, 2, 3, 4, 5], 1)

    asyncio.run(run())


def test_an_answer_whose_rest_does_not_come_is_lost() -> None:
    async def run() -> None:
        inbox = Inbox(rest=0.05)
        inbox.put([1])
        inbox.end(END, 2)
        with pytest.raises(EngineLost):
            await asyncio.wait_for(all_of(inbox), 30)

    asyncio.run(run())


class Engine:
    """The engine's end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aborted: list[str] = []
        self.socket = self._socket()

    def _socket(self) -> TokenSocket:
        return TokenSocket(
            patience=30,
            aborted=lambda _, uid: self.aborted.append(uid),
            asked=lambda _, uid: None,
            lost=lambda _: None,
            clock=time.monotonic,
        )

    async def start(self) -> None:
        self.socket = self._socket()
        await self.socket.open(self.path)

    def send(self, claim: str, uid: str, ids: list[int]) -> None:
        reader = self.socket.reader(claim)
        assert reader is not None
        reader.write(wire.frame(wire.Output(uid, ids, len(ids), 3)))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_reader, "RETRY_SECONDS", 0.01)


def test_ids_reach_the_request_that_expects_them_and_who_leaves_early_is_aborted(tmp_path: Path) -> None:
    async def run() -> None:
        engine, reader = Engine(tmp_path / "s"), TokenReader(tmp_path / "s")
        await engine.start()
        await reader.open()
        a, b = Inbox(), Inbox()
        await until(lambda: reader.expect("a", a))
        claim = reader.expect("b", b)
        engine.send(claim, "a", [1, 2])
        engine.send(claim, "unknown", [9])
        engine.send(claim, "b", [3])
        a.end(END, 2)
        assert await all_of(a) == ([1, 2], 1)
        assert a.cached == 3
        assert (await b.take()).ids == (3,)
        reader.forget("a", ended=True)
        reader.forget("b", ended=False)
        reader.forget("never", ended=False)
        await until(lambda: engine.aborted)
        assert engine.aborted == ["b"]
        await reader.close()
        engine.socket.close()

    asyncio.run(run())


def test_without_an_engine_there_is_no_claim_and_after_a_restart_a_new_one(tmp_path: Path) -> None:
    async def run() -> None:
        engine, reader = Engine(tmp_path / "s"), TokenReader(tmp_path / "s")
        await reader.open()
        await asyncio.sleep(0.03)
        assert reader.expect("a", Inbox()) == ""
        await engine.start()
        await until(lambda: reader.expect("b", Inbox()))
        first = reader.expect("b", Inbox())
        engine.socket.close()
        await until(lambda: not reader.expect("c", Inbox()))
        await engine.start()
        await until(lambda: reader.expect("d", Inbox()))
        assert reader.expect("d", Inbox()) != first
        await reader.close()
        engine.socket.close()

    asyncio.run(run())


def test_an_answer_whose_rest_can_not_come_any_more_is_lost_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        engine, reader = Engine(tmp_path / "s"), TokenReader(tmp_path / "s")
        await engine.start()
        await reader.open()
        inbox = Inbox(rest=60)
        await until(lambda: reader.expect("a", inbox))
        engine.send(reader.expect("a", inbox), "a", [1])
        inbox.end(END, 2)
        await until(lambda: inbox.arrived)
        engine.socket.close()
        with pytest.raises(EngineLost):
            await asyncio.wait_for(all_of(inbox), 30)
        inbox.close()
        await reader.close()

    asyncio.run(run())
