"""Our own calls fail, once and for ever: the engine comes back or is given up truthfully, and nothing leaks."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable
from kimi_k2_serving.engine import group, supervisor
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.port import EngineState
from kimi_k2_serving.engine.supervisor import SupervisedEngine
from tests.engine.test_supervisor import Started, alive, running

FOR_EVER = 10**9
# What a start needs, and what it says when there is none.
CALLS: dict[str, tuple[Any, str, BaseException]] = {
    "mkdtemp": (tempfile, "mkdtemp", OSError(errno.ENOSPC, "no room")),
    "socketpair": (socket, "socketpair", OSError(errno.EMFILE, "no descriptor")),
    "fork": (asyncio, "create_subprocess_exec", BlockingIOError(errno.EAGAIN, "no process")),
    "connect": (asyncio, "open_unix_connection", OSError(errno.EMFILE, "no descriptor")),
    "pidfd_open": (os, "pidfd_open", OSError(errno.EMFILE, "no descriptor")),
    "observe": (HostProcess, "observe", OSError(errno.EMFILE, "no descriptor")),
    "send": (HostProcess, "send", OSError(errno.ENOBUFS, "no buffer")),
    "thread": (asyncio, "to_thread", RuntimeError("can't start new thread")),
    "members": (group, "members", OSError(errno.EMFILE, "no descriptor")),
}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> Callable[[], int]:
    """The call fails `times` times from now on; returns how often it has."""
    owner, attribute, error = CALLS[name]
    right = getattr(owner, attribute)
    failed = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal failed
        # asyncio makes a socket pair for its own loop, too.
        if failed < times and not (name == "socketpair" and args):
            failed += 1
            raise error
        return right(*args, **kwargs)

    monkeypatch.setattr(owner, attribute, call)
    return lambda: failed


def nothing_is_left(before: set[int]) -> bool:
    """No child but those of other tests; one that was killed may take a moment to end."""
    deadline = time.monotonic() + 30
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    return not children() - before


def children() -> set[int]:
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in pids if alive(int(pid))}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def killed(started: Started) -> None:
    started.hosts[-1].process.send_signal(signal.SIGKILL)
    await started.until(lambda: started.engine.state is not EngineState.READY)


@pytest.mark.parametrize("name", CALLS)
def test_a_restart_survives_a_call_that_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()

    async def scenario() -> None:
        async with running(tmp_path, worker=True) as started:
            await started.collect("before", 1)
            open_before = descriptors()
            with monkeypatch.context() as broken:
                count = failing(broken, name, 1)
                await killed(started)
                await started.until(lambda: started.engine.state is EngineState.READY, 20)
                assert count() == 1
            assert await started.collect("after", 2)
            assert descriptors() == open_before
            assert any(record.exc_info for record in caplog.records) or name == "thread", "it must be in the log"

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []
    assert nothing_is_left(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CALLS if name != "thread"])
def test_a_call_that_fails_for_ever_is_the_end_that_is_told_and_stop_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(supervisor, "SHORTAGES", 4)

    before = children()

    async def scenario() -> None:
        async with running(tmp_path, worker=True) as started:
            with monkeypatch.context() as broken:
                count = failing(broken, name, FOR_EVER)
                await killed(started)
                await started.until(lambda: started.engine.state is EngineState.FAILED, 60)
                assert count() >= 4
                with pytest.raises(EngineUnavailable):
                    await started.collect("after", 1)
                await started.engine.stop()
            assert started.engine.state is EngineState.STOPPED

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []
    assert nothing_is_left(before)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "thread"])
def test_a_first_start_that_fails_is_an_error_of_the_tree_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = children()

    async def scenario() -> None:
        started = Started(tmp_path, {"worker": True})
        open_before = descriptors()
        with monkeypatch.context() as broken:
            failing(broken, name, 1)
            with pytest.raises(EngineUnavailable):
                await started.engine.start()
        assert started.engine.state is EngineState.STOPPED
        assert descriptors() == open_before

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []
    assert nothing_is_left(before)


def test_an_unforeseen_end_of_the_supervisor_is_logged_and_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.05) as started:
            flight = asyncio.create_task(started.collect("a", 1000))
            await asyncio.sleep(0.2)
            monkeypatch.setattr(SupervisedEngine, "_restart", lambda _: 1 // 0)
            started.hosts[-1].process.send_signal(signal.SIGKILL)
            with pytest.raises(EngineLost):
                await flight
            assert started.engine.state is EngineState.FAILED
            assert "supervisor failed" in caplog.text

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_watch_that_fails_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(tmp_path, worker=True, step=0.02) as started:
            right = SupervisedEngine._look
            monkeypatch.setattr(SupervisedEngine, "_look", lambda *_: 1 // 0)
            await asyncio.sleep(0.6)
            monkeypatch.setattr(SupervisedEngine, "_look", right)
            flight = asyncio.create_task(started.collect("a", 1000))
            await asyncio.sleep(0.1)
            started.hosts[0].process.send_signal(signal.SIGSTOP)
            with pytest.raises(EngineLost):
                await asyncio.wait_for(flight, 10)

    asyncio.run(scenario())


def test_processes_that_can_not_be_listed_are_killed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, worker=True) as started:
            (worker,) = group.titled(started.hosts[0].process.pid, "sglang::scheduler")
            with monkeypatch.context() as broken:
                failing(broken, "members", FOR_EVER)
                started.hosts[0].kill()
                await started.until(lambda: not alive(worker))

    asyncio.run(scenario())
