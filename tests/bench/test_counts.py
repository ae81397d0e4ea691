"""The work of a token does not grow: hand-overs, system calls, responses and tensors, counted on the real server."""

from __future__ import annotations

import pytest

from tests.bench import counts
from tests.bench.serving.servers import Ports

# Per token. What was counted on two cores that other work shared, and half of it again: a quiet machine wakes more
# threads for the same work.
BOUNDS = {
    "engine_model": {
        "messages": 1.0,
        "tensors": 2.0,
        "switches": {"host": 0.3, "stub_engine": 6.5, "triton": 9.0},
        "system_calls": {"host": 1.0, "stub_engine": 24.0, "triton": 24.0},
    },
    "ensemble": {
        # Of a streamed answer, whose ids come past Triton but for the first.
        "messages": 1.1,
        "tensors": 1.2,
        "switches": {"host": 0.3, "stub_engine": 1.8, "stub_postprocess": 4.3, "triton": 10.0},
        "system_calls": {"host": 1.0, "stub_engine": 6.1, "stub_postprocess": 13.2, "triton": 24.0},
    },
    # Its ids come from the host directly, so Triton and the stub have only the request's beginning and end.
    "frontend": {
        "switches": {"host": 0.3, "stub_engine": 1.1, "triton": 0.7, "frontend": 1.0},
        "system_calls": {"host": 1.0, "stub_engine": 4.0, "triton": 1.6, "frontend": 4.5},
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
