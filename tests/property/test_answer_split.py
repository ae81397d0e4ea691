"""An answer gives the same events however its ids or its text were split, and nothing of it is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_k2_serving.core.call_machine import Marker
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallStart,
)
from kimi_k2_serving.core.header import resolve_header
from kimi_k2_serving.core.marker_text import MarkerTextParser
from tests.support.answers import (
    ARG,
    CALL,
    END,
    OTHER_CONTROLS,
    SEC,
    VOCABULARY,
    Part,
    check_order,
    merged,
    parser,
    run,
)

TOOLS = ["f", "g", "a.b", "search-documents"]
HEADERS = ["functions.f:0", "f", "functions.g:12", "mcp.a.b:1", "functions.x:0", "functions_f_3", "7", "", " f:0\n"]
OBJECTS = ["{}", '{"a": "}<\\"|tool"}', '{"é": [1, {"b": null}]}', '{"a": "\n"}']
BODIES = [*OBJECTS, '{"a', "[1]", "", " ", '{"a": 1} x', "STOP"]
TEXTS = [" ", "\n\n", "Hello", "STOP", "ST", "OP", "天气🏃", "<|tool_call_begin|>", '"', "{", "}"]

ATOMS: Any = st.one_of(
    st.sampled_from(list(Marker)),
    st.sampled_from(HEADERS + BODIES + TEXTS),
    st.sampled_from([VOCABULARY.control(name) for name in OTHER_CONTROLS]),
    st.integers(0, 255),
    st.text(max_size=4),
)
CALLS: Any = st.tuples(
    st.just(CALL),
    st.sampled_from(HEADERS),
    st.just(ARG),
    st.sampled_from(BODIES),
    st.sampled_from([END, SEC, ""]),
)
PARTS: Any = st.lists(st.one_of(ATOMS.map(lambda atom: (atom,)), CALLS), max_size=8).map(
    lambda groups: [part for group in groups for part in group]
)
OPTIONS: Any = st.fixed_dictionaries(
    {
        "tools": st.sampled_from([TOOLS, ["f"], []]),
        "parallel": st.booleans(),
        "stops": st.sampled_from([[], ["STOP"], ["\n\n", "Hello", "OPE"]]),
        "first_index": st.integers(0, 3),
    }
)
REASONS: Any = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH])


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(PARTS, OPTIONS, REASONS, st.lists(st.integers(0, 300)))
def test_the_split_of_the_ids_changes_nothing(
    parts: list[Part], options: dict[str, Any], reason: FinishReason, cuts: list[int]
) -> None:
    """A4"""
    ids = VOCABULARY.ids(*parts)
    whole = run(parser(**options), ids, (), reason)
    check_order(whole, options["first_index"])
    assert merged(run(parser(**options), ids, cuts, reason)) == merged(whole)
    assert merged(run(parser(**options), ids, range(len(ids)), reason)) == merged(whole)


def replayed(text: str, cuts: list[int], options: dict[str, Any], reason: FinishReason) -> list[Event]:
    stream = MarkerTextParser(**options)
    events: list[Event] = []
    start = 0
    for cut in (*sorted(cuts), len(text)):
        events += stream.feed(text[start:cut])
        start = cut
    return events + stream.finish(reason)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(PARTS, OPTIONS, REASONS, st.lists(st.integers(0, 300)))
def test_the_split_of_replayed_text_changes_nothing(
    parts: list[Part], options: dict[str, Any], reason: FinishReason, cuts: list[int]
) -> None:
    """A26"""
    text = "".join(
        part.value if isinstance(part, Marker) else part if isinstance(part, str) else "<|im_end|>" for part in parts
    )
    whole = merged(replayed(text, [], options, reason))
    check_order(whole, options["first_index"])
    assert merged(replayed(text, cuts, options, reason)) == whole
    assert merged(replayed(text, list(range(len(text))), options, reason)) == whole


def visible(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=400, deadline=None)
@given(PARTS, REASONS)
def test_without_tools_all_text_but_whitespace_is_content(parts: list[Part], reason: FinishReason) -> None:
    """A9, A14"""
    ids = [token for token in VOCABULARY.ids(*parts) if token < 128 or token > 255]
    events = run(parser(tools=[]), ids, (), reason)
    content = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert visible(content) == visible(bytes(token for token in ids if token < 128).decode())
    assert events[-1] == Finish(reason)
    assert not any(isinstance(event, ToolCallStart) for event in events)


def accounts_for(events: list[Event], text: str) -> bool:
    """Whether `text` is what the events pass on, with a header that names its tool where a call starts."""
    if not events:
        return text == ""
    match events[0]:
        case TextDelta(passed) | ArgumentsDelta(_, passed):
            shown = visible(passed)
            taken = text.startswith(shown) and accounts_for(events[1:], text[len(shown) :])
            # A18 puts `{}` where no arguments were written.
            return taken or (passed == "{}" and accounts_for(events[1:], text))
        case ToolCallStart(_, _, name):
            ends = (end for end in range(len(text) + 1) if resolve_header(text[:end], TOOLS) == name)
            return any(accounts_for(events[1:], text[end:]) for end in ends)
    return accounts_for(events[1:], text)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(PARTS, st.lists(st.integers(0, 300)))
def test_no_text_of_an_answer_is_lost(parts: list[Part], cuts: list[int]) -> None:
    """Content, arguments and the headers of calls are the answer's text less whitespace, in its order."""
    ids = [token for token in VOCABULARY.ids(*parts) if token < 128 or token > 255]
    text = visible(bytes(token for token in ids if token < 128).decode())
    assert accounts_for(merged(run(parser(tools=TOOLS), ids, cuts)), text)
