"""Cheap schemas are not held up by expensive ones, and no schema waits for ever."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from kimi_k2_serving.grammar.lanes import EXPENSIVE, CompileLanes, guess, known, marked

COSTLY = EXPENSIVE + 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def noting(done: list[str], name: str, last: threading.Event) -> Callable[[], None]:
    def work() -> None:
        done.append(name)
        if name == "last":
            last.set()

    return work


def test_expensive_jobs_leave_one_lane_to_the_cheap() -> None:
    lanes, gate, begun = CompileLanes(2), threading.Event(), threading.Semaphore(0)

    def held() -> None:
        begun.release()
        gate.wait()

    for _ in range(8):
        lanes.submit(COSTLY, held)
    assert begun.acquire(timeout=10)
    cheap = threading.Event()
    lanes.submit(0.0, cheap.set)
    assert cheap.wait(10)
    assert not begun.acquire(blocking=False)
    gate.set()
    for _ in range(7):
        assert begun.acquire(timeout=10)
    lanes.shutdown()


def test_cheap_goes_before_expensive_but_not_for_ever() -> None:
    clock, gate, last = Clock(), threading.Event(), threading.Event()
    lanes = CompileLanes(1, clock=clock)
    started = threading.Event()

    def held() -> None:
        started.set()
        gate.wait()

    lanes.submit(0.0, held)
    assert started.wait(10)
    done: list[str] = []
    lanes.submit(5.0, noting(done, "expensive", last))
    lanes.submit(1.0, noting(done, "cheap", last))
    clock.now = 4.5
    lanes.submit(1.0, noting(done, "last", last))
    gate.set()
    assert last.wait(10)
    assert done == ["cheap", "expensive", "last"]
    lanes.shutdown()


def test_what_has_not_begun_when_it_ends_never_does() -> None:
    lanes, gate, started = CompileLanes(1), threading.Event(), threading.Event()
    done: list[str] = []

    def held() -> None:
        started.set()
        gate.wait()

    lanes.submit(0.0, held)
    assert started.wait(10)
    lanes.submit(0.0, lambda: done.append("late"))
    lanes.shutdown()
    gate.set()
    lanes.submit(0.0, lambda: done.append("later"))
    assert done == []


def test_patterns_are_expensive_and_plain_schemas_are_not() -> None:
    assert guess(b'{"tools":[["f",{"type":"object","properties":{"x":{"type":"string"}}},true,false]]}') < EXPENSIVE
    assert guess(b'{"tools":[["f",{"properties":{"x":{"pattern":"^a{1,60}$"}}},true,false]]}') > EXPENSIVE


def test_a_grammar_says_whether_compiling_it_was_cheap_and_one_that_says_nothing_was_not() -> None:
    tag = json.dumps({"type": "structural_tag", "format": {"type": "grammar", "grammar": 'root ::= "# cheap"\n'}})
    assert known(marked(tag, EXPENSIVE / 2)) < EXPENSIVE
    for dear in (tag, marked(tag, 2 * EXPENSIVE), "", "{}"):
        assert known(dear) > EXPENSIVE
