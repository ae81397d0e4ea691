"""A vocabulary of single bytes, and how tests run the answer parser and compare what comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kimi_k2_serving.core.call_machine import Marker
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.tool_calls import ToolCallParser

SEC, END_SEC, CALL, ARG, END = (
    Marker.SECTION_BEGIN,
    Marker.SECTION_END,
    Marker.CALL_BEGIN,
    Marker.ARGUMENT_BEGIN,
    Marker.CALL_END,
)
OTHER_CONTROLS = ("<|im_end|>", "<|im_user|>", "[BOS]", "<|reserved_token_163589|>")

# A control token by name, text, or one byte.
Part = Marker | str | int


class ByteVocabulary:
    """Ids 0 to 255 are the bytes; the markers and a few other control tokens follow."""

    def __init__(self) -> None:
        names = (*(marker.value for marker in Marker), *OTHER_CONTROLS)
        self.controls = {name: 256 + place for place, name in enumerate(names)}
        self.control_ids = frozenset(self.controls.values())
        self.size = 256 + len(names)

    def control(self, name: str) -> int:
        return self.controls[name]

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise InvalidValue("no such token")
        return bytes([token]) if token < 256 else b""

    def ids(self, *parts: Part) -> list[int]:
        """A marker is its id, an integer is itself, text is its bytes."""
        ids: list[int] = []
        for part in parts:
            if isinstance(part, Marker):
                ids.append(self.controls[part.value])
            elif isinstance(part, int):
                ids.append(part)
            else:
                ids += part.encode()
        return ids


VOCABULARY = ByteVocabulary()


def merged(events: Iterable[Event]) -> list[Event]:
    """Neighbouring deltas of the same kind and call joined: equality up to how an answer was split."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        match last, event:
            case TextDelta(before), TextDelta(after):
                joined[-1] = TextDelta(before + after)
            case ArgumentsDelta(call, before), ArgumentsDelta(index, after) if call == index:
                joined[-1] = ArgumentsDelta(index, before + after)
            case _:
                joined.append(event)
    return joined


def check_order(events: list[Event], first_index: int) -> None:
    """Calls never interleave, ids count up, deltas are never empty, and Finish comes once, last."""
    call, ended = None, 0
    for event in events[:-1]:
        match event:
            case TextDelta(text):
                assert call is None
                assert text
            case ToolCallStart(index, id_, name):
                assert (call, index, id_) == (None, ended, f"functions.{name}:{first_index + ended}")
                call = index
            case ArgumentsDelta(index, fragment):
                assert index == call
                assert fragment
            case ToolCallEnd(index, _):
                assert index == call
                call, ended = None, ended + 1
            case CallRejected(_):
                assert call is None
            case Finish():
                raise AssertionError(event)
    assert call is None
    assert isinstance(events[-1], Finish)


def parser(
    *,
    tools: Iterable[str] = ("f",),
    first_index: int = 0,
    parallel: bool = True,
    stops: Sequence[str] = (),
) -> ToolCallParser:
    return ToolCallParser(VOCABULARY, tools=tuple(tools), first_index=first_index, parallel=parallel, stops=stops)


def run(
    parser: ToolCallParser,
    ids: Sequence[int],
    cuts: Iterable[int] = (),
    reason: FinishReason = FinishReason.STOP,
) -> list[Event]:
    """Feed `ids` cut at the given places, then finish; the events as they came, unmerged."""
    events: list[Event] = []
    start = 0
    for cut in (*sorted(cuts), len(ids)):
        events += parser.feed(ids[start:cut])
        start = cut
    return events + parser.finish(reason)


def parse(
    *parts: Part,
    tools: Iterable[str] = ("f",),
    first_index: int = 0,
    parallel: bool = True,
    stops: Sequence[str] = (),
    reason: FinishReason = FinishReason.STOP,
) -> list[Event]:
    """The merged events of an answer of the byte vocabulary, after checking that one id at a time gives the same."""
    ids = VOCABULARY.ids(*parts)
    whole = merged(run(parser(tools=tools, first_index=first_index, parallel=parallel, stops=stops), ids, (), reason))
    single = parser(tools=tools, first_index=first_index, parallel=parallel, stops=stops)
    assert merged(run(single, ids, range(1, len(ids)), reason)) == whole
    return whole
