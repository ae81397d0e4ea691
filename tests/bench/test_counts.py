"""The work of a token does not grow: hand-overs, system calls, responses and tensors, counted on the real server."""

from __future__ import annotations

import pytest

from tests.bench import counts
from tests.bench.serving.servers import Ports

# Per token. What was counted, and half of it again: a quiet machine wakes more threads for the same work.
BOUNDS = {
    "engine_model": {
        "messages": 1.0,
        "tensors": 2.0,
        "switches": {"host": 0.5, "stub_engine": 9.0, "triton": 10.0},
        "system_calls": {"host": 4.0, "stub_engine": 30.0, "triton": 26.0},
    },
    "ensemble": {
        "messages": 1.0,
        "tensors": 1.0,
        "switches": {"host": 0.5, "stub_engine": 10.0, "stub_postprocess": 8.0, "triton": 21.0},
        "system_calls": {"host": 4.0, "stub_engine": 37.0, "stub_postprocess": 28.0, "triton": 57.0},
    },
    "frontend": {
        "switches": {"host": 0.5, "stub_engine": 9.0, "triton": 10.0, "frontend": 5.0},
        "system_calls": {"host": 4.0, "stub_engine": 30.0, "triton": 26.0, "frontend": 27.0},
    },
}


@pytest.mark.server
@pytest.mark.slow
def test_the_work_of_a_token_stays_within_its_bounds() -> None:
    found = counts.measure(counts.DEMO, Ports())
    assert not list(counts.excesses(found, BOUNDS)), found
    # A part that no longer does anything, or is no longer counted, needs a new bound.
    assert {arm: set(row["switches"]) >= set(BOUNDS[arm]["switches"]) for arm, row in found.items()} == dict.fromkeys(
        BOUNDS, True
    )


def test_only_a_count_over_its_bound_is_an_excess() -> None:
    found = {"frontend": {"messages": 1.2, "switches": {"triton": 6.0, "host": 0.2}}}
    assert list(counts.excesses(found, {"frontend": {"messages": 1.0, "switches": {"triton": 6.0}}})) == [
        "frontend messages: 1.2 per token, at most 1"
    ]
    assert not list(counts.excesses(found, {"frontend": {"switches": {"host": 0.1, "stub": 1.0}}}))
