"""Server-sent events are decoded the same however the bytes are cut, and only whole events come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_client.sse import SseDecoder

RECORDED = (
    'data: {"model_name":"kimi_k2","model_version":"1","text_output":"grüß"}\n\n'
    'data: {"model_name":"kimi_k2","model_version":"1","text_output":" dich 😀"}\n\n'
    'data: {"error":"in ensemble \'kimi_k2\', engine_lost: the engine died"}\n\n'
).encode()

pieces = st.sampled_from(
    [b"data: a", b"data:b", b"data", b": comment", b"event: x", b"\n", b"\r", b"\r\n", b"\n\n", b"x"]
)
streams = st.lists(pieces, max_size=30).map(b"".join)


def decode(*chunks: bytes) -> list[bytes]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@given(streams, st.integers(0, 200))
def test_a_cut_anywhere_changes_nothing(stream: bytes, at: int) -> None:
    assert decode(stream[:at], stream[at:]) == decode(stream)


@given(streams)
def test_byte_by_byte_equals_all_at_once(stream: bytes) -> None:
    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == decode(stream)


def test_a_recorded_stream_cut_at_every_byte() -> None:
    whole = decode(RECORDED)
    assert len(whole) == 3
    for at in range(len(RECORDED) + 1):
        assert decode(RECORDED[:at], RECORDED[at:]) == whole


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b": keep-alive\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 1\nretry: 2\n\n", []),
        (b"dataset: x\n\n", []),
        (b"\n\n\n", []),
    ],
)
def test_the_format_is_followed(stream: bytes, events: list[bytes]) -> None:
    assert decode(stream) == events


def test_an_event_that_the_end_cuts_short_is_dropped() -> None:
    assert decode(b"data: a\n\ndata: b\n") == [b"a"]
