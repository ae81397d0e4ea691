"""Aborts reach every engine model under one Triton, and whoever does not know a uid ignores it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from kimi_k2_serving.engine.abort_channel import AbortReceiver, AbortSender, socket_path


def test_models_of_one_server_are_all_told_and_neither_takes_the_other_ones_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        told: dict[str, list[str]] = {"one": [], "m" * 300: []}
        receivers = [AbortReceiver(tmp_path / "run", model, uids.append) for model, uids in told.items()]
        for receiver in receivers:
            await receiver.open()
        sender = AbortSender(tmp_path / "run")
        sender.abort("a")
        await asyncio.sleep(0.05)
        receivers[0].close()
        sender.abort("b")
        await asyncio.sleep(0.05)
        assert list(told.values()) == [["a"], ["a", "b"]]
        receivers[1].close()
        sender.abort("nobody hears it, and nothing fails")
        sender.close()

    asyncio.run(scenario())
    assert not (tmp_path / "run").exists()


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
        await asyncio.sleep(0.05)
        sender.close()
        receiver.close()
        assert uids == ["a"]

    asyncio.run(scenario())
