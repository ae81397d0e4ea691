"""core/tool_calls.py: the hostile cases of docs/kimi_k2_format.md, and the parser's other promises."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Finish,
    FinishReason,
    Rejection,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.limits import TOOL_CALLS_PER_ANSWER
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from tests.support import hostile
from tests.support.answers import ARG, CALL, END, END_SEC, SEC, VOCABULARY, merged, parse, parser, run

ANSWERS = hostile.load("answers")


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_a_hostile_answer_gives_its_events(case: hostile.Case, vocabulary: Vocabulary) -> None:
    assert case.ids_in(vocabulary) == list(case.ids)
    assert merged(run(case.parser(vocabulary), case.ids, (), case.reason)) == case.events


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_a_hostile_answer_cut_in_two_anywhere_gives_its_events(case: hostile.Case) -> None:
    ids = case.ids_of_bytes()
    for cut in range(len(ids) + 1):
        assert merged(run(case.parser(VOCABULARY), ids, [cut], case.reason)) == case.events


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_a_hostile_answer_in_chunks_gives_its_events(case: hostile.Case, size: int) -> None:
    ids = case.ids_of_bytes()
    assert merged(run(case.parser(VOCABULARY), ids, range(size, len(ids), size), case.reason)) == case.events


def test_case_names_are_unique() -> None:
    names = [case.name for case in ANSWERS]
    assert len(set(names)) == len(names)


def test_events_are_emitted_as_soon_as_they_are_certain() -> None:
    """A4: events do not wait for the end; the call ends with its object, before any end marker."""
    stream = parser()
    steps = [stream.feed(VOCABULARY.ids(part)) for part in ("Hi", SEC, CALL, "functions.f:0", ARG, '{"a"', ":1", "}")]
    assert steps == [
        [TextDelta("Hi")],
        [],
        [],
        [],
        [ToolCallStart(0, "functions.f:0", "f")],
        [ArgumentsDelta(0, '{"a"')],
        [ArgumentsDelta(0, ":1")],
        [ArgumentsDelta(0, "}"), ToolCallEnd(0, True)],
    ]


@pytest.mark.slow
def test_an_answer_is_not_bounded_in_size() -> None:
    """A5: a long header, deep arguments and long content are emitted completely."""
    name, deep, long = "n" * 100_000, '{"a":' * 50_000 + "{}" + "}" * 50_000, "x" * 300_000
    events = parse(long, SEC, CALL, f"functions.{name}:0", ARG, deep, END, END_SEC, tools=[name])
    assert events == [
        TextDelta(long),
        ToolCallStart(0, f"functions.{name}:0", name),
        ArgumentsDelta(0, deep),
        ToolCallEnd(0, True),
        Finish(FinishReason.TOOL_CALLS),
    ]


@pytest.mark.parametrize(("parallel", "most"), [(True, TOOL_CALLS_PER_ANSWER.value), (False, 1)])
def test_calls_over_the_bound_are_counted_and_dropped(parallel: bool, most: int) -> None:
    """A15"""
    calls = [part for n in range(most + 2) for part in (CALL, f"functions.f:{n}", ARG, '{"n": 1} ', END)]
    events = parse(SEC, *calls, END_SEC, "Done.", parallel=parallel)
    assert [event.index for event in events if isinstance(event, ToolCallStart)] == list(range(most))
    assert events[-4:] == [
        CallRejected(Rejection.TOO_MANY_CALLS),
        CallRejected(Rejection.TOO_MANY_CALLS),
        TextDelta("Done."),
        Finish(FinishReason.TOOL_CALLS),
    ]


@pytest.mark.parametrize("rest", [[], ['{"a": '], ['{"a": ', CALL, "functions.f:2", ARG, "{}"], [END], ["1", END]])
def test_an_incomplete_call_over_the_bound_yields_nothing(rest: list[str]) -> None:
    """A15"""
    events = parse(CALL, "functions.f:0", ARG, "{}", CALL, "functions.f:1", ARG, *rest, parallel=False)
    assert {type(event) for event in events[3:-1]} == {CallRejected}
    assert events[-1] == Finish(FinishReason.TOOL_CALLS)


def test_after_a_stop_string_nothing_is_emitted() -> None:
    """A22"""
    stream = parser(stops=["END"])
    assert stream.feed(VOCABULARY.ids("Hi E")) == [TextDelta("Hi ")]
    assert not stream.stopped
    assert stream.feed(VOCABULARY.ids("ND of", CALL, "functions.f:0", ARG, "{}")) == []
    assert stream.stopped
    assert stream.feed(VOCABULARY.ids("more", CALL, "functions.f:0", ARG, "{}", END)) == []
    assert stream.finish(FinishReason.LENGTH) == [Finish(FinishReason.STOP, "END")]


@pytest.mark.parametrize("rest", ["}", '"}', "", "} and so on"])
def test_a_stop_string_ends_a_rejected_call_too(rest: str) -> None:
    """A22"""
    stop = '{"q": "STOP'
    events = parse(CALL, "functions.g:0", ARG, stop, rest, CALL, "functions.f:0", ARG, "{}", END, stops=["STOP"])
    assert events == [
        CallRejected(Rejection.UNDECLARED_NAME),
        TextDelta('functions.g:0{"q": "'),
        Finish(FinishReason.STOP, "STOP"),
    ]


def test_a_stop_string_that_ends_a_rejected_object_ends_the_answer() -> None:
    """A22"""
    events = parse(CALL, "functions.g:0", ARG, "{}more", stops=["{}"])
    assert events[1:] == [TextDelta("functions.g:0"), Finish(FinishReason.STOP, "{}")]


def test_a_stop_string_in_an_unfinished_header_ends_the_answer() -> None:
    """A22: a header that a marker or the end cuts short is content."""
    ended = [TextDelta("a "), Finish(FinishReason.STOP, "STOP")]
    assert parse(CALL, "a STOP b", END, "more", stops=["STOP"])[1:] == ended
    assert parse(CALL, "a STOP b", stops=["STOP"])[1:] == ended


def test_an_answer_finishes_once() -> None:
    """A23"""
    stream = parser()
    assert stream.finish(FinishReason.STOP) == [Finish(FinishReason.STOP)]
    assert stream.stopped
    assert stream.finish(FinishReason.STOP) == []
    assert stream.feed(VOCABULARY.ids("more", CALL, ARG)) == []


def test_an_id_outside_the_vocabulary_is_an_error() -> None:
    """A2"""
    for token in (-1, VOCABULARY.size):
        with pytest.raises(InvalidValue):
            parser().feed([token])


def test_no_control_id_yields_text(vocabulary: Vocabulary) -> None:
    """A2, A14: without declared tools, no control id of the real vocabulary shows up in content."""
    for control in vocabulary.control_ids:
        stream = ToolCallParser(vocabulary, tools=[])
        events = run(stream, [*vocabulary.encode("ab"), control, *vocabulary.encode("cd")])
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "abcd"


def test_whitespace_before_arguments_yields_no_event() -> None:
    """A17: a delta is never empty."""
    stream = parser()
    stream.feed(VOCABULARY.ids(CALL, "functions.f:0", ARG))
    assert [stream.feed(VOCABULARY.ids(part)) for part in (" ", "\n\n", " {")] == [[], [], [ArgumentsDelta(0, "{")]]
