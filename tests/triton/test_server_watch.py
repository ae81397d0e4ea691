"""A stub ends with the Triton above it, and has its engine end first."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from kimi_k2_serving.engine import linux, pace, shared_memory
from kimi_k2_serving.engine.pace import Pace
from kimi_k2_serving.triton import server_watch


@pytest.fixture(autouse=True)
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the kernel would be asked to end this process after."""
    asked: list[int] = []
    monkeypatch.setattr(server_watch.signal, "alarm", asked.append)
    return asked


def test_a_process_ends_with_its_parent_once_the_engine_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def stop() -> None:
        order.append("stop")

    monkeypatch.setattr(server_watch.os, "_exit", lambda status: order.append(f"exit {status}"))

    async def watch(parent: subprocess.Popen[bytes]) -> None:
        watching = asyncio.create_task(server_watch.stop_with_parent(parent.pid, stop))
        await asyncio.sleep(0.1)
        assert order == []
        parent.kill()
        await asyncio.wait_for(watching, 30)

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        asyncio.run(watch(parent))
    assert order == ["stop", "exit 1"]


def test_an_engine_that_does_not_stop_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(server_watch.os, "_exit", left.append)
    monkeypatch.setattr(server_watch, "ORPHAN_SECONDS", 0.05)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as parent:
        parent.wait()
        asyncio.run(server_watch.stop_with_parent(parent.pid, asyncio.Event().wait))  # type: ignore[arg-type]
    assert left == [1]


# What a probe of a server that is not gone may run into: nothing that says anything about the server.
NOT_ITS_FAULT = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EACCES)


class Script:
    """`asyncio.open_connection` as scripted: an errno, an answer's bytes, or nothing. The last one stays, and `over`
    is set when it has come REPEATED times.
    """

    REPEATED = 5

    def __init__(self, *steps: int | bytes) -> None:
        self.steps = list(steps)
        self.asked: list[float] = []
        self.most = len(steps) + self.REPEATED
        self.over = asyncio.Event()

    async def open(self, address: str, port: int) -> tuple[asyncio.StreamReader, Any]:
        self.asked.append(asyncio.get_running_loop().time())
        if len(self.asked) == self.most:
            self.over.set()
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, int):
            raise OSError(step, os.strerror(step))
        reader = asyncio.StreamReader()
        if step:
            reader.feed_data(step)
        reader.feed_eof()
        return reader, SimpleNamespace(write=lambda _: None, close=lambda: None)


def stopping(monkeypatch: pytest.MonkeyPatch, *steps: int | bytes) -> tuple[bool, list[float]]:
    """Whether a server that answers as scripted is taken for a stopping one, and when it was asked."""
    monkeypatch.setattr(server_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(server_watch, "ANSWERED_SECONDS", 0.02)
    script = Script(*steps)
    monkeypatch.setattr(server_watch.asyncio, "open_connection", script.open)

    async def scenario() -> bool:
        watch = asyncio.create_task(server_watch.TritonServer("127.0.0.1", 1, 5.0).stopping(Pace(lambda: True)))
        over = asyncio.create_task(script.over.wait())
        done, others = await asyncio.wait((watch, over), timeout=30, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        assert done, "it was not asked often enough"
        return watch in done

    return asyncio.run(scenario()), script.asked


@pytest.mark.parametrize("number", NOT_ITS_FAULT)
def test_a_probe_that_this_process_could_not_make_says_nothing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    assert not stopping(monkeypatch, b"H", number)[0]
    assert not stopping(monkeypatch, b"H", number, number, b"H")[0]
    # Between two that do say something it is no reason to wait longer than one more.
    assert stopping(monkeypatch, b"H", number, b"", number, b"", b"")[0]


@pytest.mark.parametrize("end", [b"", errno.ECONNREFUSED, errno.ECONNRESET])
def test_two_closed_connections_in_a_row_a_poll_apart_are_a_stop_and_one_is_not(
    monkeypatch: pytest.MonkeyPatch, end: int | bytes
) -> None:
    assert not stopping(monkeypatch, end)[0], "it has never answered: it is starting"
    assert not stopping(monkeypatch, b"H", end, b"H")[0]
    stops, asked = stopping(monkeypatch, b"H", end, end)
    assert stops
    assert asked[-1] - asked[-2] >= 0.009


def test_without_requests_a_server_that_answers_is_asked_about_once_per_second_and_an_arrival_ends_the_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(server_watch, "ANSWERED_SECONDS", 0.02)
    # A slow machine must end neither the pause nor, after the arrival, the time without one within this test.
    monkeypatch.setattr(pace, "REST_SECONDS", 60.0)
    monkeypatch.setattr(pace, "LINGER_SECONDS", 60.0)
    script = Script(b"H", b"H", b"")
    monkeypatch.setattr(server_watch.asyncio, "open_connection", script.open)

    async def scenario() -> None:
        idle = Pace(lambda: False)
        watch = asyncio.create_task(server_watch.TritonServer("127.0.0.1", 1, 5.0).stopping(idle))
        await asyncio.sleep(0.2)
        assert len(script.asked) == 1
        idle.wake()
        # The first closed connection is followed by another one a poll later, even without requests.
        await asyncio.wait_for(watch, 30)
        assert len(script.asked) == 4

    asyncio.run(scenario())


@pytest.mark.parametrize("times", [1, 3])
def test_a_process_that_gets_no_descriptor_for_its_parent_still_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(server_watch, "POLL_SECONDS", 0.01)
    opened, failures = os.pidfd_open, [errno.EMFILE] * times

    def pidfd_open(pid: int) -> int:
        if failures:
            raise OSError(failures.pop(), "no descriptor")
        return opened(pid)

    monkeypatch.setattr(linux.os, "pidfd_open", pidfd_open)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        watching = threading.Thread(target=lambda: asyncio.run(server_watch.until_ended(parent.pid)))
        watching.start()
        watching.join(0.2)
        assert watching.is_alive()
        parent.kill()
        watching.join(30)
        assert not watching.is_alive()
        parent.wait()
        failures.extend([errno.EMFILE] * 1000)
        assert linux.watched(parent.pid) == linux.GONE


def test_an_engine_that_fails_to_stop_does_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, alarms: list[int]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(server_watch.os, "_exit", left.append)

    async def stop() -> None:
        raise OSError(errno.EMFILE, "no descriptor")

    with subprocess.Popen([sys.executable, "-c", "pass"]) as parent:
        parent.wait()
        asyncio.run(server_watch.stop_with_parent(parent.pid, stop))
    assert left == [1]
    assert alarms == [server_watch.ALARM_SECONDS]


def test_a_step_ends_with_its_parent_although_its_main_thread_hangs_and_takes_triton_s_memory_along() -> None:
    region = shared_memory.SHARED_MEMORY / f"triton_test_backend_shm_region_{uuid.uuid4()}"
    step = (
        "import mmap, os, sys, time, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('none');"
        "from kimi_k2_serving.triton.server_watch import end_with_parent;"
        "handle = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600); os.ftruncate(handle, 4096);"
        "held = mmap.mmap(handle, 4096); end_with_parent(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
    )
    above = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    with subprocess.Popen(
        [sys.executable, "-c", above, step, str(region)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert region.exists()
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while region.exists() or linux.watched(pid) != linux.GONE:
            assert time.monotonic() < deadline
            # Where an earlier test has made this process a subreaper, the orphan is ours to collect.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
