"""When a request is worth repeating, and how long to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_client import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    KimiError,
    Quarantined,
    Retry,
    Unavailable,
    Unreachable,
)

BUSY = Unavailable("overloaded", "later")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("invalid_value", "no"),
        ConnectionLost("gone"),
        DeadlineExceeded("deadline_exceeded", "too late"),
        Quarantined("request_quarantined", "the engine died of it", retry_after=600.0),
    ],
)
def test_only_unavailable_is_worth_repeating(error: KimiError) -> None:
    assert Retry().delay(1, error, 0.0) is None


@pytest.mark.parametrize("error", [BUSY, Unreachable("nobody there")])
def test_two_retries_by_default(error: KimiError) -> None:
    delays = [Retry().delay(failures, error, 0.0) for failures in (1, 2, 3)]
    assert delays == [0.125, 0.25, None]


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_between_half_of_its_step_and_the_longest(failures: int, fraction: float) -> None:
    policy = Retry(retries=60)
    delay = policy.delay(failures, BUSY, fraction)
    step = min(policy.longest, policy.first * 2 ** (failures - 1))
    assert delay is not None
    assert step / 2 <= delay <= step


def test_the_servers_estimate_is_never_undercut() -> None:
    assert Retry().delay(1, Unavailable("overloaded", "later", retry_after=5.0), 0.0) == 5.0
