"""Aborts reach every engine model under one Triton, and whoever does not know a uid ignores it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from kimi_k2_serving.engine.abort_channel import WAITING_RECEIPTS, AbortReceiver, AbortSender, socket_path


async def until(condition: Callable[[], bool]) -> None:
    """The receivers work on this loop."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - lists alone tell
            await asyncio.sleep(0.001)


def test_models_of_one_server_are_all_told_and_neither_takes_the_other_ones_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        told: dict[str, list[str]] = {"one": [], "m" * 300: []}
        receivers = [AbortReceiver(tmp_path / "run", model, uids.append) for model, uids in told.items()]
        for receiver in receivers:
            await receiver.open()
        sender = AbortSender(tmp_path / "run")
        sender.abort("a")
        await until(lambda: all(told.values()))
        receivers[0].close()
        sender.abort("b")
        await until(lambda: "b" in told["m" * 300])
        assert list(told.values()) == [["a"], ["a", "b"]]
        receivers[1].close()
        sender.abort("nobody hears it, and nothing fails")
        sender.close()

    asyncio.run(scenario())
    assert not (tmp_path / "run").exists()


def test_receipts_reach_the_models_and_those_that_find_a_full_socket_come_with_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        aborted: list[str] = []
        taken: list[str] = []
        receiver = AbortReceiver(tmp_path, "model", aborted.append, taken.append)
        await receiver.open()
        sender = AbortSender(tmp_path)
        sender.confirm(["a", "b", "a"])
        sender.abort("c")
        await until(lambda: bool(aborted) and len(taken) == 3)
        assert (aborted, taken) == (["c"], ["a", "b", "a"])
        # Nobody reads meanwhile: the kernel keeps some ten to some hundred datagrams.
        uids = [f"u{number}" for number in range(1000)]
        for uid in uids:
            sender.confirm([uid])
        await until(lambda: len(taken) >= 3 + len(uids) - len(sender.waiting))
        assert "u999" not in taken
        sender.confirm([])
        await until(lambda: len(taken) >= 3 + len(uids))
        assert taken[3:] == uids
        sender.close()
        receiver.close()

    asyncio.run(scenario())


def test_receipts_without_a_reader_are_not_kept_for_ever(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "model")
    sender = AbortSender(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(path))
        for number in range(10 * WAITING_RECEIPTS):
            sender.confirm([str(number)])
            assert len(sender.waiting) <= WAITING_RECEIPTS
    sender.confirm(["the model is gone"])
    assert not sender.waiting
    sender.close()


def test_a_killed_models_socket_is_taken_over_by_the_next_of_its_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = socket_path(tmp_path, "model")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(path))
        uids: list[str] = []
        receiver = AbortReceiver(tmp_path, "model", uids.append)
        await receiver.open()
        sender = AbortSender(tmp_path)
        sender.abort("a")
        await until(lambda: bool(uids))
        sender.close()
        receiver.close()
        assert uids == ["a"]

    asyncio.run(scenario())
