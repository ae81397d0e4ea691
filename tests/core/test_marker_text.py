"""Replayed text: markers by their spelling, however the text was split."""

from __future__ import annotations

import time

import pytest

from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.marker_text import MarkerTextParser
from tests.support import hostile
from tests.support.answers import merged

REPLAYS = hostile.load("replays")


def replay(case: hostile.Case, pieces: list[str]) -> list[Event]:
    parser = case.text_parser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish(case.reason))


@pytest.mark.parametrize("case", REPLAYS, ids=lambda case: case.name)
def test_a_hostile_replay_gives_its_events(case: hostile.Case) -> None:
    assert replay(case, [case.input[0]]) == case.events


@pytest.mark.parametrize("case", REPLAYS, ids=lambda case: case.name)
def test_a_hostile_replay_cut_in_two_anywhere_gives_its_events(case: hostile.Case) -> None:
    text = case.input[0]
    for cut in range(len(text) + 1):
        assert replay(case, [text[:cut], text[cut:]]) == case.events


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("case", REPLAYS, ids=lambda case: case.name)
def test_a_hostile_replay_in_chunks_gives_its_events(case: hostile.Case, size: int) -> None:
    text = case.input[0]
    assert replay(case, [text[start : start + size] for start in range(0, len(text), size)]) == case.events


# Cases in which text is more ambiguous than ids: text that spells a marker, bytes that are not text, and strings.
INSIDE_A_STRING = (
    "next call begins inside a string",
    "call_end inside a string",
    "argument_begin inside a string",
    "answer stops inside arguments",
)
ANSWERS = [
    case
    for case in hostile.load("answers")
    if not {"A1", "A2", "A3"} & set(case.rules) and case.name not in INSIDE_A_STRING
]


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case.name)
def test_text_gives_the_events_of_its_ids(case: hostile.Case) -> None:
    text = "".join(hostile.control_name(item[0]) if isinstance(item, list) else item for item in case.input)
    assert replay(case, [text]) == case.events


def test_a_stop_string_ends_a_replay() -> None:
    """A22"""
    parser = MarkerTextParser(tools=["f"], stops=["STOP"])
    assert parser.feed("a STOP<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}") == [TextDelta("a ")]
    assert parser.stopped
    assert parser.feed("more") == []
    assert parser.finish(FinishReason.STOP) == [Finish(FinishReason.STOP, "STOP")]


def test_indices_and_bounds_are_those_of_ids() -> None:
    parser = MarkerTextParser(tools=["f"], first_index=7, parallel=False)
    call = "<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert parser.feed(call + call)[:3] == [
        ToolCallStart(0, "functions.f:7", "f"),
        ArgumentsDelta(0, "{}"),
        ToolCallEnd(0, True),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["<|im_end|>", "<", "<|tool_call_", "a<|im_end|>"])
def test_time_is_linear_in_one_piece(unit: str) -> None:
    started = time.process_time()
    MarkerTextParser(tools=[]).feed(unit * 100_000)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"])
def test_control_tokens_of_messages_are_dropped_and_end_nothing(name: str) -> None:
    """A2, A26: outside strings they are dropped."""
    stream = MarkerTextParser(tools=["f"])
    text = f"a{name}b<|tool_call_begin|>functions{name}.f:0<|tool_call_argument_begin|>{{{name}}}"
    assert merged([*stream.feed(text), *stream.finish(FinishReason.STOP)]) == [
        TextDelta("ab"),
        ToolCallStart(0, "functions.f:0", "f"),
        ArgumentsDelta(0, "{}"),
        ToolCallEnd(0, True),
        Finish(FinishReason.TOOL_CALLS),
    ]
