"""The engine compiles behind its scheduler: yielding, cheap past expensive, errors and leavers as SGLang expects."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kimi_k2_serving.grammar import yielding
from kimi_k2_serving.grammar.engine_compiles import Compiles
from kimi_k2_serving.grammar.lanes import marked

TAG = json.dumps({"type": "structural_tag", "format": {"type": "grammar", "grammar": "root ::= [a]\n"}})
EXPENSIVE, CHEAP = ("structural_tag", TAG), ("structural_tag", marked(TAG, 0.0))


@pytest.fixture
def compiles() -> Iterator[Compiles]:
    made = Compiles()
    yield made
    made.shutdown(wait=False)


def test_its_threads_and_those_that_they_start_yield_and_the_scheduler_s_does_not(compiles: Compiles) -> None:
    def niceness(_: Any) -> list[int]:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(os.getpriority(os.PRIO_PROCESS, 0)))
        thread.start()
        thread.join()
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), *found]

    assert compiles.submit(niceness, CHEAP).result(10) == [yielding.NICENESS] * 2
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < yielding.NICENESS


def test_a_cheap_grammar_passes_by_many_expensive_ones(compiles: Compiles) -> None:
    held, begun = threading.Event(), threading.Semaphore(0)

    def compile_slowly(_: Any) -> str:
        begun.release()
        held.wait()
        return "slow"

    slow = [compiles.submit(compile_slowly, EXPENSIVE) for _ in range(6)]
    assert begun.acquire(timeout=10)
    assert compiles.submit(lambda key, more: (key, more), CHEAP, True).result(10) == (CHEAP, True)
    assert not begun.acquire(blocking=False)
    assert slow[-1].cancel()
    held.set()
    assert [each.result(10) for each in slow[:-1]] == ["slow"] * 5


def test_an_error_is_the_future_s(compiles: Compiles) -> None:
    def fails(_: Any) -> None:
        raise ValueError("no grammar")

    assert isinstance(compiles.submit(fails, EXPENSIVE).exception(10), ValueError)


def test_few_processors_compile_with_one_thread_and_many_with_no_more_than_eight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processors, threads in ((1, 1), (2, 1), (16, 4), (224, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        assert yielding.threads() == threads
