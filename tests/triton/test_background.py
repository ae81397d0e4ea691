"""No failure ends what has to go on for ever, and none goes unsaid."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from test_engine_service import answers, ask, error, service, until

from kimi_k2_serving.engine import given_up
from kimi_k2_serving.engine.port import EngineState
from kimi_k2_serving.triton.background import LOG_SECONDS, Background, Complaints
from kimi_k2_serving.triton.chat.metrics import RELAXED, EnforcementMetrics

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(triton.Logger, "log_error", staticmethod(lines.append))
    return lines


class Broken:
    """Fails `times` times, then does as what it stands for."""

    def __init__(self, work: Callable[..., Any], times: float) -> None:
        self._work = work
        self.left = times
        self.calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise FULL
        return self._work(*arguments, **named)


def test_a_turn_that_fails_is_logged_once_a_minute_and_the_next_one_comes(said: list[str]) -> None:
    now = [0.0]

    async def scenario() -> int:
        turns, enough = 0, asyncio.Event()

        async def turn() -> None:
            nonlocal turns
            turns += 1
            now[0] += LOG_SECONDS / 2
            if turns == 5:
                enough.set()
            raise FULL

        background = Background(asyncio.get_running_loop(), Complaints(lambda: now[0]))
        background.forever(turn, "counting", 0.0)
        await enough.wait()
        await background.close()
        return turns

    assert asyncio.run(scenario()) == 5
    assert said == [
        "counting failed: OSError: [Errno 28] No space left on device",
        *["counting failed: OSError: [Errno 28] No space left on device (and 1 times more since the last message)"] * 2,
    ]


def test_work_that_ends_with_a_failure_says_so(said: list[str]) -> None:
    async def scenario() -> None:
        async def work() -> None:
            raise FULL

        background = Background(asyncio.get_running_loop())
        await asyncio.gather(background.once(work(), "one thing"), return_exceptions=True)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert said == ["one thing failed: OSError: [Errno 28] No space left on device"]


def gauge(name: str) -> float:
    return max((metric.value for metric in triton.MetricFamily.made[name]), default=-1.0)


@pytest.mark.parametrize("times", [1, 20])
def test_metrics_that_fail_come_back(tmp_path: Path, said: list[str], times: int) -> None:
    with service(tmp_path) as (_, engine):
        until(lambda: gauge("sglang_backend:ready") == 1)
        (metric,) = triton.MetricFamily.made["sglang_backend:ready"]
        metric.set = broken = Broken(metric.set, times)  # type: ignore[method-assign]
        engine.state = EngineState.RESTARTING
        until(lambda: metric.value == 0)
        assert broken.calls == times + 1
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["_settle", "_forget_finished", "_check_time"])
def test_deadlines_and_cancellations_outlive_a_failing_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], what: str
) -> None:
    with service(tmp_path) as (running, engine):
        late = ask(running, input_ids=[3], stream=True, timeout_ms=2000)
        left = ask(running, input_ids=[3], stream=True)
        until(lambda: engine.in_flight == 2)
        monkeypatch.setattr(running, what, Broken(getattr(running, what), 3))
        left.cancelled = True
        until(lambda: bool(left.finals))
        assert error(late)[0].startswith("deadline_exceeded: ")
        assert answers(ask(running, input_ids=[1]))
    assert said


@pytest.mark.parametrize("times", [1, float("inf")])
def test_a_stop_closes_the_loop_and_every_thread_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], times: float
) -> None:
    before = set(threading.enumerate())
    with service(tmp_path) as (running, engine):
        assert answers(ask(running, input_ids=[1]))
        monkeypatch.setattr(running, "_end_all", Broken(running._end_all, times))
        monkeypatch.setattr(engine, "stop", Broken(engine.stop, times))
    assert running._loop.is_closed()
    until(lambda: not set(threading.enumerate()) - before)
    assert said
    assert not (tmp_path / "runtime").exists()


def test_a_service_whose_loop_has_ended_is_not_ready_and_says_so(tmp_path: Path) -> None:
    with service(tmp_path) as (running, _):
        running._loop.call_soon_threadsafe(running._loop.stop)
        until(lambda: not running.ready)
        assert error(ask(running, input_ids=[1]))[0].startswith("shutting_down: ")


def test_what_blocks_around_the_engine_adds_no_thread(tmp_path: Path) -> None:
    """Ending an engine and starting the next one waits for processes and files, which asyncio does in a pool."""
    with service(tmp_path) as (running, _):

        async def wait() -> None:
            await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.02) for _ in range(4)])

        before = threading.active_count()
        asyncio.run_coroutine_threadsafe(wait(), running._loop).result(30)
        assert threading.active_count() == before


@pytest.mark.parametrize("times", [0, 3])
def test_an_engine_that_was_given_up_is_told_in_the_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], times: int
) -> None:
    runtime = tmp_path / "runtime"
    with service(tmp_path) as (running, engine):
        monkeypatch.setattr(running._given_up, "tell", Broken(running._given_up.tell, times))
        assert given_up.why_given_up(runtime) is None
        engine.state = EngineState.FAILED
        until(lambda: given_up.why_given_up(runtime) == "the engine of engine keeps dying and was given up")
        assert not running.ready
    assert len(said) == min(times, 1)
    assert not runtime.exists()


def test_a_count_that_fails_costs_no_answer_and_is_made_up_for(said: list[str]) -> None:
    metrics = EnforcementMetrics("kimi_k2_postprocess")
    metrics.began()
    (metric,) = triton.MetricFamily.made[RELAXED]
    metric.increment = Broken(metric.increment, 2)  # type: ignore[method-assign]
    for _ in range(3):
        metrics.began()
    assert metric.value == 4
    assert len(said) == 1
