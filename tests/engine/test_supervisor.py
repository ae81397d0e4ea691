"""The supervisor over real processes: a scripted host in place of SGLang, real signals, real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable, InvalidValue
from kimi_k2_serving.engine import group, host_process, wire
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.port import Chunk, EndReason, EngineState, Generation, Load
from kimi_k2_serving.engine.supervisor import SupervisedEngine
from kimi_k2_serving.engine.suspects import CRASHES

HOST = Path(__file__).with_name("scripted_host.py")


class Started:
    """An engine, and every host process that was spawned for it."""

    def __init__(self, runtime: Path, server_args: dict[str, Any], *, stall_seconds: float = 2) -> None:
        self.hosts: list[HostProcess] = []
        self.runtime = runtime
        self.server_args = server_args
        self.engine = SupervisedEngine(
            self.spawn,
            server_args,
            start_timeout=20,
            stall_seconds=stall_seconds,
            silent_seconds=3,
            sleep=self.sleep,
        )
        self.pauses: list[float] = []

    async def spawn(self) -> HostProcess:
        host = await host_process.spawn([sys.executable, str(HOST)], os.environ, self.runtime)
        self.hosts.append(host)
        return host

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def collect(self, uid: str, tokens: int, first: int = 10) -> list[Chunk]:
        generation = Generation(uid, [first], {"max_new_tokens": tokens}, stream=True)
        return [chunk async for chunk in self.engine.generate(generation)]

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(runtime: Path, *, stall_seconds: float = 2, **server_args: Any) -> AsyncIterator[Started]:
    started = Started(runtime, server_args, stall_seconds=stall_seconds)
    await started.engine.start()
    try:
        yield started
    finally:
        await started.engine.stop()


def alive(pid: int) -> bool:
    """A zombie is not: this process collects the orphans of those it started, at its leisure."""
    return group.state(pid) not in ("", "Z")


def test_a_generation_is_whole_and_ends_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            chunks = await started.collect("a", 50)
            assert [token for chunk in chunks for token in chunk.ids] == list(range(11, 61))
            assert [chunk.end is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]

    asyncio.run(scenario())


def test_a_slow_reader_gets_everything_in_fewer_chunks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            generation = Generation("a", [10], {"max_new_tokens": 50}, stream=True)
            chunks = []
            async for chunk in started.engine.generate(generation):
                chunks.append(chunk)
                await asyncio.sleep(0.2)
            assert len(chunks) < 10
            assert [token for chunk in chunks for token in chunk.ids] == list(range(11, 61))

    asyncio.run(scenario())


def test_killing_the_host_ends_everything_in_flight_once_and_the_engine_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        # It is the death that ends them, not the standstill.
        async with running(tmp_path, stall_seconds=60, step=0.02) as started:
            flights = [asyncio.create_task(started.collect(str(number), 10_000)) for number in range(5)]
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            started.hosts[0].process.send_signal(signal.SIGKILL)
            results = await asyncio.gather(*flights, return_exceptions=True)
            assert time.monotonic() - begin < 30
            assert all(isinstance(result, EngineLost) for result in results), results
            with pytest.raises(EngineUnavailable):
                await started.collect("refused", 1)
            await started.until(lambda: started.engine.state is EngineState.READY)
            assert len(await started.collect("after", 3)) >= 1

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("whose", ["host", "worker"])
def test_any_process_lost_or_stopped_ends_everything_in_flight_and_the_engine_comes_back(
    tmp_path: Path, whose: str, signal_number: signal.Signals
) -> None:
    killed = signal_number is signal.SIGKILL

    async def scenario() -> None:
        # It is a death that ends them, or a standstill.
        async with running(tmp_path, stall_seconds=60 if killed else 2, step=0.02, worker=True) as started:
            host = started.hosts[0].process.pid
            (worker,) = group.titled(host, "sglang::scheduler")
            flights = [asyncio.create_task(started.collect(str(number), 10_000)) for number in range(3)]
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            os.kill(host if whose == "host" else worker, signal_number)
            results = await asyncio.gather(*flights, return_exceptions=True)
            assert (0 if killed else 1.5) < time.monotonic() - begin < 30
            assert all(isinstance(result, EngineLost) for result in results), results
            await started.until(lambda: started.engine.state is EngineState.READY)
            assert list(group.members(host)) == [], "a process was left, if only as a zombie"
            assert started.engine.load.restarts == 1
            assert len(await started.collect("after", 3)) >= 1

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_idle_engine_is_not_stalled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            await asyncio.sleep(2.6)
            assert len(started.hosts) == 1
            assert await started.collect("a", 1)

    asyncio.run(scenario())


def test_the_load_is_what_the_scheduler_says_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            await started.until(lambda: started.engine.load == Load(3, 2, 0.5, 0))

    asyncio.run(scenario())


def test_an_aborted_generation_ends_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.01) as started:
            flight = asyncio.create_task(started.collect("a", 10_000))
            await asyncio.sleep(0.1)
            started.engine.abort("a")
            chunks = await asyncio.wait_for(flight, 30)
            assert chunks[-1].end is not None
            assert chunks[-1].end.reason is EndReason.ABORT

    asyncio.run(scenario())


def test_leaving_a_generation_early_aborts_it_in_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.01) as started:
            ends: list[str] = []
            take = started.engine._take

            def taken(message: wire.FromHost | wire.Unreadable) -> None:
                if isinstance(message, wire.Output) and message.end:
                    ends.append(message.end)
                take(message)

            monkeypatch.setattr(started.engine, "_take", taken)
            generator = started.engine.generate(Generation("a", [10], {"max_new_tokens": 10_000}, stream=True))
            await anext(generator)
            await generator.aclose()
            # It would go on for 100 s.
            await started.until(lambda: bool(ends), 30)
            assert ends == ["abort"]

    asyncio.run(scenario())


def test_a_refusal_by_the_engine_is_an_error_of_the_tree_without_its_text(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            with pytest.raises(InvalidValue) as caught:
                await started.collect("a", 13)
            assert "unlucky" not in str(caught.value)

    asyncio.run(scenario())


def test_a_crash_loop_stays_down_and_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as started:
            for _ in range(CRASHES):
                started.hosts[-1].process.send_signal(signal.SIGKILL)
                await started.until(lambda: started.engine.state is not EngineState.READY)
                await started.until(lambda: started.engine.state is not EngineState.RESTARTING)
            assert started.engine.state is EngineState.FAILED
            with pytest.raises(EngineUnavailable, match="keeps dying"):
                await started.collect("more", 1)

    asyncio.run(scenario())


def test_an_engine_that_does_not_start_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        started = Started(tmp_path, {"refuse_start": 1})
        with pytest.raises(EngineUnavailable, match="while it was starting"):
            await started.engine.start()
        assert started.engine.state is EngineState.STOPPED
        assert not alive(started.hosts[0].process.pid)

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_stopping_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    pids = []

    async def scenario() -> None:
        async with running(tmp_path) as started:
            await started.collect("a", 3)
            pids.append(started.hosts[0].process.pid)

    asyncio.run(scenario())
    assert not alive(pids[0])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_engine_had_in_shared_memory_is_removed_and_nothing_else(tmp_path: Path) -> None:
    own, other = Path(f"/dev/shm/kk2-own-{os.getpid()}"), Path(f"/dev/shm/kk2-other-{os.getpid()}")
    other.touch()
    try:

        async def scenario() -> None:
            async with running(tmp_path, shared_memory=own.name) as started:
                assert os.path.exists(own)  # noqa: ASYNC240 - /dev/shm does not block
                started.hosts[0].process.send_signal(signal.SIGKILL)
                await started.until(lambda: started.engine.state is EngineState.RESTARTING)

        asyncio.run(scenario())
        assert not own.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_a_host_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
from pathlib import Path
from kimi_k2_serving.engine import host_process, wire
async def main():
    host = await host_process.spawn([sys.executable, {str(HOST)!r}], os.environ, Path({str(tmp_path)!r}))
    host.send(wire.Start({{}}))
    await host.receive()
    print(host.process.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
