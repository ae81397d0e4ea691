"""What became of a job is kept while there is room, and only what another try would not change."""

from __future__ import annotations

from kimi_k2_serving.core.errors import Internal, Overloaded, ShuttingDown
from kimi_k2_serving.enforcer.outcome_cache import MOST_BYTES, Outcomes, RememberedError
from kimi_k2_serving.grammar.constraint import Constraint


def test_outcomes_are_bounded_in_bytes_and_those_used_last_stay() -> None:
    outcomes = Outcomes(lambda: 0.0, most=10_000)
    for number in range(8):
        outcomes.add(str(number).encode(), Constraint("x" * 1_900))
        outcomes.get(b"0")
    assert outcomes.bytes <= 10_000
    assert outcomes.get(b"0") is not None
    assert outcomes.get(b"1") is None
    outcomes.add(b"large", Constraint("x" * MOST_BYTES))
    assert outcomes.get(b"large") is None
    assert outcomes.get(b"0") is not None


def test_an_error_that_is_not_the_schema_s_is_not_kept() -> None:
    outcomes = Outcomes(lambda: 0.0)
    for number, kind in enumerate((Internal, Overloaded, ShuttingDown)):
        outcomes.add(bytes([number]), RememberedError(kind, "x"))
    assert len(outcomes) == 0
