"""A stub ends with the Triton above it, and has its engine end first."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from kimi_k2_serving.triton import server_watch


def test_a_process_ends_with_its_parent_once_the_engine_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def stop() -> None:
        order.append("stop")

    monkeypatch.setattr(server_watch.os, "_exit", lambda status: order.append(f"exit {status}"))

    async def watch(parent: subprocess.Popen[bytes]) -> None:
        watching = asyncio.create_task(server_watch.leave_with(parent.pid, stop))
        await asyncio.sleep(0.1)
        assert order == []
        parent.kill()
        await asyncio.wait_for(watching, 5)

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        asyncio.run(watch(parent))
    assert order == ["stop", "exit 1"]


def test_an_engine_that_does_not_stop_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(server_watch.os, "_exit", left.append)
    monkeypatch.setattr(server_watch, "ORPHAN_SECONDS", 0.05)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as parent:
        parent.wait()
        asyncio.run(server_watch.leave_with(parent.pid, asyncio.Event().wait))  # type: ignore[arg-type]
    assert left == [1]
