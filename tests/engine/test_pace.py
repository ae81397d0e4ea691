"""Periodic work rests while there is none to do, and never when there is some."""

from __future__ import annotations

import asyncio
import time

import pytest

from kimi_k2_serving.engine.pace import LINGER_SECONDS, REST_SECONDS, Pace

# A rest that no slow machine can take for none.
LONG_REST = 60.0
AT_ONCE = 30.0


def rested(pace: Pace, *, woken_after: float | None = None) -> float:
    """How long one rest took, in seconds."""

    async def scenario() -> float:
        if woken_after is not None:
            asyncio.get_running_loop().call_later(woken_after, pace.wake)
        begun = time.monotonic()
        await pace.rest()
        return time.monotonic() - begun

    return asyncio.run(scenario())


def test_there_is_no_rest_while_there_is_work_and_for_a_while_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now, working = [100.0], [True]
    pace = Pace(lambda: working[0], clock=lambda: now[0])
    with monkeypatch.context() as patched:
        patched.setattr("kimi_k2_serving.engine.pace.REST_SECONDS", LONG_REST)
        assert rested(pace) < AT_ONCE
        working[0] = False
        now[0] += LINGER_SECONDS - 0.01
        assert rested(pace) < AT_ONCE
    now[0] += 0.02
    assert rested(pace) > REST_SECONDS - 0.1


def test_a_rest_ends_by_itself_and_at_once_when_work_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REST_SECONDS - 0.1 < rested(Pace(lambda: False)) < REST_SECONDS + 20
    monkeypatch.setattr("kimi_k2_serving.engine.pace.REST_SECONDS", LONG_REST)
    assert rested(Pace(lambda: False), woken_after=0.05) < AT_ONCE


def test_work_wakes_everybody_who_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimi_k2_serving.engine.pace.REST_SECONDS", LONG_REST)

    async def scenario() -> None:
        pace = Pace(lambda: False)
        resting = [asyncio.create_task(pace.rest()) for _ in range(3)]
        await asyncio.sleep(0.01)
        pace.wake()
        await asyncio.wait_for(asyncio.gather(*resting), AT_ONCE)

    asyncio.run(scenario())
