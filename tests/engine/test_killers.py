"""Requests that kill the engine, that it loses, or that break its messages: what becomes of them and of the others."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import (
    EngineLost,
    EngineUnavailable,
    Internal,
    InvalidValue,
    RequestQuarantined,
    ServingError,
)
from kimi_k2_serving.engine import suspects, wire
from kimi_k2_serving.engine.port import Chunk, EndReason, EngineState, Generation
from tests.engine.scripted_host import KILLER, NAMELESS, SILENT, UNREADABLE
from tests.engine.test_supervisor import Started, running

UIDS = map(str, itertools.count())


async def persistent(started: Started, first: int, tokens: int) -> Counter[str]:
    """A client that sends the same again, under a new uid, until it is served or refused as the killer."""
    ends: Counter[str] = Counter()
    while not ends["served"] and not ends["request_quarantined"]:
        try:
            await started.collect(next(UIDS), tokens, first)
            ends["served"] += 1
        except ServingError as error:
            ends[error.code] += 1
            await asyncio.sleep(0.05)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [0.0, 0.3])
def test_a_killer_is_refused_in_the_end_and_the_innocent_beside_it_are_served(
    tmp_path: Path, kill_after: float
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.02, kill_after=kill_after) as started:
            clients = [persistent(started, KILLER, 50), *(persistent(started, 10 + each, 20) for each in range(6))]
            async with asyncio.timeout(60):
                killer, *innocent = await asyncio.gather(*clients)
            assert killer["request_quarantined"] == 1
            assert not killer["served"]
            assert all(each["served"] and not each["request_quarantined"] for each in innocent), innocent
            assert started.engine.load.restarts == 3
            # And so it stays: the engine has no more of it.
            for _ in range(10):
                with pytest.raises(RequestQuarantined) as caught:
                    await started.collect(next(UIDS), 9, KILLER)
                assert caught.value.retry_after > 500
            assert started.engine.state is EngineState.READY
            assert started.engine.load.restarts == 3

    asyncio.run(scenario())


def test_a_killer_is_found_however_long_the_engine_takes_to_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.02) as started:
            started.engine._clock = lambda: time.monotonic() + 3600 * len(started.pauses)
            async with asyncio.timeout(30):
                ends = await persistent(started, KILLER, 50)
            assert (ends["engine_lost"], ends["request_quarantined"], ends["served"]) == (3, 1, 0)

    asyncio.run(scenario())


@pytest.mark.slow
def test_killers_of_ever_new_content_never_put_the_engine_down_for_good(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.01) as started:
            for number in range(12):
                generation = Generation(next(UIDS), [KILLER, number], {"max_new_tokens": 50}, stream=True)
                with pytest.raises(EngineLost):
                    async for _ in started.engine.generate(generation):
                        pass
                await started.until(lambda: started.engine.state is not EngineState.RESTARTING)
                assert started.engine.state is EngineState.READY
                assert await started.collect(next(UIDS), 3)

    asyncio.run(scenario())


def test_those_who_wait_for_their_turn_can_be_aborted_or_left_and_learn_of_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine, too, the trial ends only with the death that this test brings.
    for name in ("MARGIN", "SUSPECT_SECONDS", "TRIAL_SECONDS"):
        monkeypatch.setattr(suspects, name, 60.0)

    async def scenario() -> None:
        async with running(tmp_path, step=0.02) as started:

            async def begun() -> asyncio.Task[list[Chunk]]:
                flight = asyncio.create_task(started.collect(next(UIDS), 10_000, 20))
                await started.until(lambda: started.engine._suspects.running == 1, 30)
                return flight

            async def dies(flight: asyncio.Task[list[Chunk]]) -> None:
                started.hosts[-1].process.send_signal(signal.SIGKILL)
                with pytest.raises(EngineLost):
                    await flight

            for _ in range(2):
                await dies(await begun())
                await started.until(lambda: started.engine.state is EngineState.READY)
            killer = await begun()
            aborted, left, waiting = (asyncio.create_task(started.collect(name, 5)) for name in ("a", "b", "c"))
            # In this time each would be served if it had its turn.
            await asyncio.sleep(0.3)
            assert not any(each.done() for each in (killer, aborted, left, waiting))
            started.engine.abort("a")
            left.cancel()
            (chunk,) = await asyncio.wait_for(aborted, 30)
            assert chunk.end is not None
            assert chunk.end.reason is EndReason.ABORT
            await dies(killer)
            with pytest.raises(EngineUnavailable):
                await waiting

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_request_that_the_engine_has_lost_ends_by_itself_while_others_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.02, queued=0) as started:
            other = asyncio.create_task(started.collect("other", 250))
            with pytest.raises(EngineLost, match="has lost this request"):
                await started.collect("lost", 5, SILENT)
            assert not other.done()
            assert len(await other) > 1
            assert started.engine.load.restarts == 0

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_request_that_may_wait_in_the_engines_queue_is_not_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.02, queued=1) as started:
            other = asyncio.create_task(started.collect("other", 220))
            waiting = asyncio.create_task(started.collect("waiting", 5, SILENT))
            await other
            assert not waiting.done()
            waiting.cancel()

    asyncio.run(scenario())


def test_a_frame_that_is_no_message_ends_the_request_that_it_names_and_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.01) as started:
            other = asyncio.create_task(started.collect("other", 100))
            with pytest.raises(Internal):
                await started.collect("bad", 50, UNREADABLE)
            assert await started.collect("nameless", 5, NAMELESS)
            assert (await other)[-1].usage.completion == 100
            assert started.engine.load.restarts == 0

    asyncio.run(scenario())


def test_a_request_that_fits_no_frame_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(tmp_path, step=0.01) as started:
            other = asyncio.create_task(started.collect("other", 50))
            await asyncio.sleep(0.05)
            monkeypatch.setattr(wire, "FRAME_BYTES", 1000)
            for given in ([1] * 2000, [1 << 80]):
                with pytest.raises(InvalidValue):
                    async for _ in started.engine.generate(Generation("big", given, {"max_new_tokens": 1}, True)):
                        pass
            assert (await other)[-1].usage.completion == 50

    asyncio.run(scenario())
