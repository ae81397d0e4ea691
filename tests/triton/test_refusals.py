"""A refusal is the first and the cheapest thing: before anything of a request is read, on the thread it came on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import fake_pb_utils as triton
import pytest
from test_engine_limits import LATE, PATIENT
from test_engine_service import ask, error, service, until

from kimi_k2_serving.engine.port import EngineState, Load
from kimi_k2_serving.triton.engine.metrics import EngineMetrics, Own


class Unread(triton.Request):
    """Its inputs may not be looked at."""

    def __init__(self) -> None:
        super().__init__({})

    def inputs(self) -> Any:
        raise AssertionError("a refused request was read")

    def parameters(self) -> str:
        raise AssertionError("a refused request was read")


def refused(running: Any) -> tuple[str, int]:
    request = Unread()
    running.execute([request])
    assert request.sender.finals == 1, "the refusal has to be out when execute returns"
    return error(request.sender)


def test_over_the_limit_a_refusal_is_out_before_execute_returns_and_nothing_was_read(tmp_path: Path) -> None:
    with service(tmp_path, PATIENT) as (running, engine):
        working, waiting = ask(running, input_ids=[LATE]), ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1 and running._admission.waiting == 1)
        assert refused(running)[0].startswith("overloaded: 1 requests with 1 prompt tokens in flight, 1 waiting")
        working.cancelled = waiting.cancelled = True


def test_while_the_engine_is_down_a_refusal_is_out_before_execute_returns(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        engine.state = EngineState.RESTARTING
        assert refused(running) == ("engine_unavailable: the scripted engine is down", triton.TritonError.UNAVAILABLE)
        assert not running.ready


def test_a_thousand_refusals_take_a_moment_each_and_the_page_shows_it(tmp_path: Path) -> None:
    """A moment of this thread's own processor time: the machine may be busy."""
    with service(tmp_path, PATIENT) as (running, engine):
        working, waiting = ask(running, input_ids=[LATE]), ask(running, input_ids=[LATE])
        until(lambda: engine.in_flight == 1 and running._admission.waiting == 1)
        begin = time.thread_time()
        for _ in range(1000):
            refused(running)
        assert time.thread_time() - begin < 1

        def within(bound: str) -> float:
            family = triton.MetricFamily.made["sglang_backend:refusal_seconds_bucket"]
            return {metric.labels["le"]: metric.value for metric in family}.get(bound, 0)

        until(lambda: within("+Inf") == 1000)
        assert within("0.05") >= 990
        working.cancelled = waiting.cancelled = True


def test_an_empty_request_asks_whether_the_engine_works_and_is_counted_apart(tmp_path: Path) -> None:
    def outcomes() -> dict[str, float]:
        family = triton.MetricFamily.made["sglang_backend:requests"]
        return {metric.labels["outcome"]: metric.value for metric in family}

    with service(tmp_path) as (running, _):
        for inputs in ({}, {"stream": False}, {"stream": True, "max_tokens": 1}):
            message, code = error(ask(running, **inputs))
            assert (message.split(":")[0], code) == ("missing_field", triton.TritonError.INVALID_ARG)
        until(lambda: outcomes() == {"probe": 2, "missing_field": 1})


def test_the_page_s_histogram_of_refusals_adds_up() -> None:
    metrics = EngineMetrics("m")
    for seconds in (0.0005, 0.003, 0.2, 7.0):
        metrics.refused("overloaded", seconds)

    def page(name: str) -> dict[str | None, float]:
        family = triton.MetricFamily.made[f"sglang_backend:refusal_seconds{name}"]
        return {metric.labels.get("le"): metric.value for metric in family}

    def flush() -> None:
        metrics.flush(Load(), Own(waiting=0, prompt_tokens=0, ready=True))

    flush()
    # Each bucket holds those below it too, and the last one all.
    buckets = {bound: count for bound, count in page("_bucket").items() if count}
    assert buckets == {
        "0.001": 1,
        "0.002": 1,
        "0.005": 2,
        "0.01": 2,
        "0.02": 2,
        "0.05": 2,
        "0.1": 2,
        "0.5": 3,
        "+Inf": 4,
    }
    assert page("_sum")[None] == pytest.approx(7.2035)
    assert page("_count")[None] == 4
    flush()
    assert (page("_count")[None], page("_bucket")["+Inf"]) == (4, 4)
    metrics.refused("engine_unavailable", 1.0)
    flush()
    assert (page("_sum")[None], page("_count")[None], page("_bucket")["+Inf"]) == (pytest.approx(8.2035), 5, 5)
    metrics.close()


def test_a_request_that_had_its_place_when_all_were_ended_is_ended_too(tmp_path: Path) -> None:
    with service(tmp_path) as (running, engine):
        sender = triton.Sender()
        ticket = running._admission.arrive()
        running._draining = True
        running._loop.call_soon_threadsafe(running._arrive, triton.Request({}), sender, ticket, time.monotonic())
        assert error(sender)[0].startswith("shutting_down: ")
        assert engine.generations == []
        until(lambda: running._admission.granted + running._admission.waiting == 0)
