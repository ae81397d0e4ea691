"""What the engine has done in all: tokens, times and rates."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from kimi_k2_serving.engine import totals, wire
from kimi_k2_serving.engine.flight import load_of
from kimi_k2_serving.engine.port import Load
from kimi_k2_serving.engine.totals import FinishedRequest, Rates, Totals

LONG = FinishedRequest(prompt=100, cached=60, completion=11, first=0.5, whole=1.5)


def test_a_finished_request_counts_its_tokens_and_its_times() -> None:
    made = Totals().adding([LONG], 11)
    assert (made.requests, made.prompt, made.cached, made.generated) == (1, 100, 60, 11)
    assert (made.first.total, made.whole.total) == (0.5, 1.5)
    assert made.first.counts[totals.FIRST_BOUNDS.index(0.6)] == 1
    assert made.whole.counts[totals.WHOLE_BOUNDS.index(2)] == 1
    # Ten times a tenth of a second.
    assert made.between.counts[totals.BETWEEN_BOUNDS.index(0.1)] == sum(made.between.counts) == 10
    assert made.between.total == pytest.approx(1.0)


def test_a_request_without_a_token_has_no_first_one() -> None:
    made = Totals().adding([FinishedRequest(5, 0, 0, 0.0, 0.2)], 0)
    assert (sum(made.first.counts), sum(made.whole.counts), sum(made.between.counts)) == (0, 1, 0)


def test_what_is_longer_than_every_bound_is_counted() -> None:
    made = Totals().adding([FinishedRequest(5, 0, 1, 9_999.0, 9_999.0)], 1)
    assert (made.first.counts[-1], made.whole.counts[-1]) == (1, 1)


def test_totals_outlive_a_restart_of_the_engine() -> None:
    beat = wire.Beat(1.0, True, 1, 0, 0.5, generated=11, finished=[LONG], used=7, capacity=9)
    once = load_of(beat, Load())
    twice = load_of(beat, Load(restarts=1, totals=once.totals))
    assert (twice.restarts, twice.kv_used, twice.kv_capacity, twice.totals.requests) == (1, 7, 9, 2)


def test_rates_are_those_of_the_last_second_or_longer() -> None:
    rates = Rates()
    rates.look(Totals(), 10.0)
    rates.look(Totals().adding([], 50), 10.5)
    assert rates.throughput == 0, "half a second says too little"
    made = Totals().adding([LONG], 100)
    rates.look(made, 12.0)
    assert (rates.throughput, rates.hit_rate) == (50.0, 0.6)
    rates.look(made, 13.0)
    assert (rates.throughput, rates.hit_rate) == (0.0, 0.6)


def test_the_bounds_are_sglangs() -> None:
    """Read from its source: importing it takes seconds."""
    found = find_spec("sglang")
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).parent / "srt" / "observability" / "metrics_collector.py"
    bounds = {
        node.targets[0].id: tuple(ast.literal_eval(node.value))
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List)
        if node.targets[0].id.startswith("bucket_")
    }
    assert bounds["bucket_time_to_first_token"] == totals.FIRST_BOUNDS
    assert bounds["bucket_inter_token_latency"] == totals.BETWEEN_BOUNDS
    assert bounds["bucket_e2e_request_latency"] == totals.WHOLE_BOUNDS
