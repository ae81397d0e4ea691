"""What the grammar did not hold is checked on the finished answer, once, within bounds, and nothing else is."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import Internal
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.messages import FormatKind, Json, ResponseFormat
from kimi_k2_serving.enforcer.inspection import CHECK_SECONDS, SMALL, Inspector, Relaxed, Report
from kimi_k2_serving.enforcer.worker_client import START_SECONDS, Line, WorkerProcess
from kimi_k2_serving.grammar.constraint import Constraint
from tests.grammar.prover import request, tool
from tests.support.enforcer import CheckingWorker

LOOSE = {"properties": {"x": {"maxLength": 2}}}
PLACES = ("tools[0].function.parameters.properties.x: maxLength",)
RELAXED = Relaxed(PLACES, {"loose": LOOSE})
STOP = Finish(FinishReason.STOP)


def call(index: int, name: str, *fragments: str, complete: bool = True) -> list[Event]:
    arguments = [ArgumentsDelta(index, fragment) for fragment in fragments]
    return [ToolCallStart(index, f"functions.{name}:{index}", name), *arguments, ToolCallEnd(index, complete)]


def report(events: list[Event], relaxed: Relaxed = RELAXED, worker: CheckingWorker | None = None) -> Report:
    inspector = Inspector(relaxed)
    inspector.feed(events)
    return inspector.report(worker or CheckingWorker())


def test_a_call_that_its_schema_refuses_is_named_by_its_index_and_path() -> None:
    events = [*call(0, "loose", '{"x": "ab"}'), *call(1, "loose", '{"x": ', '"abc"}'), Finish(FinishReason.TOOL_CALLS)]
    assert report(events).document() == {
        "relaxed": list(PLACES),
        "invalid": [{"index": 1, "problems": ["arguments.x: maxLength"]}],
    }
    assert report(events).calls == 2


def test_where_all_is_valid_only_what_was_relaxed_is_said() -> None:
    assert report([*call(0, "loose", '{"x": "a"}'), STOP]).document() == {"relaxed": list(PLACES)}


def test_a_call_of_another_tool_is_not_inspected() -> None:
    found = report([*call(0, "held", '{"x": "abc"}'), STOP])
    assert (found.calls, found.invalid) == (0, {})


def test_a_call_that_was_cut_off_is_not_inspected() -> None:
    found = report([*call(0, "loose", '{"x": "abc', complete=False), Finish(FinishReason.LENGTH)])
    assert (found.calls, found.invalid) == (0, {})


def test_text_beside_calls_is_not_inspected_without_a_format() -> None:
    assert report([TextDelta("no JSON"), *call(0, "loose", '{"x": "a"}'), STOP]).contents == 0


ANSWER = Relaxed(("response_format.json_schema.schema.properties.x: maxLength",), {}, LOOSE)


def test_content_is_inspected_with_the_beginning_that_the_request_has_given() -> None:
    begun = Relaxed.decode(replace(ANSWER, prefix='{"x": "a').encode())  # type: ignore[arg-type]
    assert report([TextDelta('b"}'), STOP], begun).document() == {"relaxed": list(ANSWER.places)}
    assert report([TextDelta('bc"}'), STOP], begun).invalid_content == ("answer.x: maxLength",)


def test_content_that_its_format_refuses_has_a_field_of_its_own() -> None:
    found = report([TextDelta('{"x": '), TextDelta('"abc"}'), STOP], ANSWER)
    assert found.document() == {"relaxed": list(ANSWER.places), "invalid_content": ["answer.x: maxLength"]}
    assert found.contents == 1


@pytest.mark.parametrize(
    "end", [Finish(FinishReason.LENGTH), Finish(FinishReason.STOP, stop="b"), Finish(FinishReason.TOOL_CALLS)]
)
def test_content_that_is_no_whole_answer_is_not_inspected(end: Finish) -> None:
    found = report([TextDelta('{"x": "a'), end], ANSWER)
    assert (found.contents, found.invalid_content) == (0, ())


@given(st.lists(st.integers(0, 40), max_size=6), st.booleans())
def test_however_the_events_come_the_report_is_the_same(cuts: list[int], invalid: bool) -> None:
    text = '{"x": "abc"}' if invalid else '{"x": "a"}'
    events = [
        *call(0, "held", "{}"),
        *call(1, "loose", *text),
        *call(2, "loose", text),
        Finish(FinishReason.TOOL_CALLS),
    ]
    inspector = Inspector(RELAXED)
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    for begin, end in itertools.pairwise(edges):
        inspector.feed(events[begin:end])
    assert inspector.report(CheckingWorker()) == report(events)
    assert set(report(events).invalid) == ({1, 2} if invalid else set())


def test_only_the_schemas_that_were_relaxed_are_carried_and_they_survive_the_way() -> None:
    declared = [tool({"title": str(i)}, name=f"f{i}") for i in range(11)]
    constraint = Constraint("", ("tools[1].function.parameters.properties.x: pattern",))
    relaxed = Relaxed.of(constraint, request(*declared))
    assert relaxed is not None
    assert set(relaxed.tools) == {"f1"}
    assert Relaxed.decode(json.loads(json.dumps(relaxed.encode()))) == relaxed


def test_the_path_of_one_tool_is_not_the_beginning_of_another_s() -> None:
    declared = [tool({"title": str(i)}, name=f"f{i}") for i in range(12)]
    constraint = Constraint("", ("tools[11].function.parameters: minProperties",))
    relaxed = Relaxed.of(constraint, request(*declared))
    assert relaxed is not None
    assert set(relaxed.tools) == {"f11"}


def test_a_format_s_schema_is_carried_where_it_was_relaxed() -> None:
    wanted = ResponseFormat(FormatKind.JSON_SCHEMA, LOOSE)
    constraint = Constraint("", ("response_format.json_schema.schema: minProperties",))
    relaxed = Relaxed.of(constraint, request(tool(LOOSE), response_format=wanted))
    assert relaxed is not None
    assert (relaxed.tools, relaxed.answer) == ({}, LOOSE)


def test_nothing_is_carried_where_everything_is_held() -> None:
    assert Relaxed.of(Constraint("tag"), request(tool(LOOSE))) is None


class Failing(CheckingWorker):
    """Dies, or is none."""

    def __init__(self, error: Internal | None = None) -> None:
        super().__init__()
        self._error = error

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]:
        assert seconds <= CHECK_SECONDS
        assert patience <= CHECK_SECONDS
        if self._error is not None:
            raise self._error
        return []


LARGE = json.dumps({"x": "a" * SMALL})


def test_a_small_document_needs_no_worker_and_a_large_one_goes_to_it() -> None:
    worker = CheckingWorker()
    report([*call(0, "loose", '{"x": "abc"}'), STOP], worker=worker)
    assert worker.asked == 0
    found = report([*call(0, "loose", LARGE), STOP], worker=worker)
    assert worker.asked == 1
    assert found.invalid == {0: ("arguments.x: maxLength",)}


@pytest.mark.parametrize("worker", [Failing(), Failing(Internal("none"))], ids=["it died", "there is none"])
def test_what_could_not_be_checked_says_so(worker: Failing) -> None:
    assert report([*call(0, "loose", LARGE), STOP], worker=worker).invalid == {0: ("arguments: not checked",)}


def test_many_large_documents_share_one_time() -> None:
    now = iter(range(10))
    inspector = Inspector(RELAXED)
    inspector.feed([*call(0, "loose", LARGE), *call(1, "loose", LARGE), STOP])
    found = inspector.report(CheckingWorker(), clock=lambda: next(now) * 0.7 * CHECK_SECONDS)
    assert found.invalid == {0: ("arguments.x: maxLength",), 1: ("arguments: not checked",)}


def test_a_document_of_a_megabyte_is_done_with_in_time() -> None:
    """With values that take a validator hours to compare."""
    worker = WorkerProcess(None)
    try:
        worker.start()
        worker.wait()
        schema: Json = {"properties": {"x": {"uniqueItems": True, "items": {"type": "object"}}}}
        document = json.dumps({"x": [{"a": number} for number in range(90_000)]})
        assert len(document) > 1 << 20
        inspector = Inspector(Relaxed(PLACES, {"loose": schema}))
        inspector.feed([*call(0, "loose", document), STOP])
        began = time.monotonic()
        inspector.report(worker)
        assert time.monotonic() - began < CHECK_SECONDS + 2
    finally:
        worker.close()
