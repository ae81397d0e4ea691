"""A request's trace context reaches the engine, and one that is none never fails a request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_engine_service import answers, ask, service

VALID = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("parameters", "passed"),
    [
        ({"traceparent": VALID, "tracestate": "a=b"}, VALID),
        ({}, ""),
        ({"traceparent": VALID + "-more"}, ""),
        ({"traceparent": VALID.upper()}, ""),
        ({"traceparent": "x" * 100_000}, ""),
        ({"traceparent": 7}, ""),
        ({"traceparent": [VALID]}, ""),
    ],
)
def test_a_traceparent_is_passed_on_if_it_is_one(tmp_path: Path, parameters: dict[str, object], passed: str) -> None:
    with service(tmp_path) as (running, engine):
        answers(ask(running, json.dumps(parameters), input_ids=[1]))
        assert [each.trace for each in engine.generations] == [passed]
