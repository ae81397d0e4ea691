from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.engine import wire

MESSAGES = st.lists(
    st.one_of(
        st.builds(wire.Abort, uid=st.text(max_size=64)),
        st.builds(
            wire.Submit,
            uid=st.text(min_size=1, max_size=8),
            input_ids=st.lists(st.integers(0, 2**31 - 1), max_size=50),
            sampling=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
            top_logprobs=st.none() | st.integers(0, 20),
            priority=st.none(),
        ).filter(lambda submit: all(not isinstance(v, int) or abs(v) < 2**63 for v in submit.sampling.values())),
    ),
    max_size=5,
)


@given(MESSAGES, st.lists(st.integers(1, 40), max_size=40))
def test_messages_are_the_same_however_their_bytes_are_split(messages: list[wire.ToHost], sizes: list[int]) -> None:
    data = b"".join(map(wire.frame, messages))
    reader = wire.FrameReader(wire.ToHost)
    received = []
    for size in sizes:
        received += reader.feed(data[:size])
        data = data[size:]
    assert received + reader.feed(data) == messages


def test_a_frame_is_not_delivered_before_its_last_byte() -> None:
    data = wire.frame(wire.Abort("a"))
    reader = wire.FrameReader(wire.ToHost)
    assert reader.feed(data[:-1]) == []
    assert reader.feed(data[-1:]) == [wire.Abort("a")]


def test_a_frame_longer_than_any_of_ours_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="too long"):
        wire.FrameReader(wire.ToHost).feed(wire.HEADER.pack(wire.FRAME_BYTES + 1))


@given(st.binary(max_size=60))
def test_whatever_a_frame_holds_the_next_one_is_read(body: bytes) -> None:
    data = wire.HEADER.pack(len(body)) + body + wire.frame(wire.Abort("next"))
    first, second = wire.FrameReader(wire.ToHost).feed(data)
    assert isinstance(first, wire.Unreadable | wire.Submit | wire.Abort | wire.Start)
    assert second == wire.Abort("next")


@pytest.mark.parametrize(
    ("fields", "uid"),
    [
        (["Output", "a"], "a"),
        (["Unheard", "a"], "a"),
        (["Failed", "a", "x", ""], "a"),
        (["Failed", 3, 1, ""], ""),
        (["Beat"], ""),
        ({"type": "Output", "uid": "a"}, ""),
        ([1, 2], ""),
    ],
)
def test_a_frame_that_is_no_message_says_whose_it_was(fields: object, uid: str) -> None:
    body = msgspec.msgpack.encode(fields)
    (message,) = wire.FrameReader(wire.FromHost).feed(wire.HEADER.pack(len(body)) + body)
    assert isinstance(message, wire.Unreadable)
    assert message.uid == uid
    assert message.problem


@pytest.mark.parametrize(
    "message",
    [
        wire.Submit("u", [1 << 80], {}, None, 0),
        wire.Submit("u", [1], {"x": object()}, None, 0),
        wire.Failed("u", 400, "\ud800"),
        wire.Failed("u", 400, "x" * wire.FRAME_BYTES),
    ],
)
def test_a_message_that_no_frame_holds_is_not_sent(message: wire.ToHost | wire.FromHost) -> None:
    with pytest.raises(wire.Unsendable):
        wire.frame(message)


@pytest.mark.parametrize("matched", [None, 7, "stop", [1, 2], []])
def test_what_ended_a_generation_is_an_id_several_or_text(matched: object) -> None:
    sent = wire.Output("u", [1], 1, end="stop", matched=matched)  # type: ignore[arg-type]
    assert wire.FrameReader(wire.FromHost).feed(wire.frame(sent)) == [sent]


def test_a_prompt_of_the_whole_context_is_read_in_time_proportional_to_it() -> None:
    def seconds(length: int) -> float:
        data = wire.frame(wire.Submit("u", list(range(length)), {}, None, 0))
        best = 9.0
        for _ in range(3):
            begin = time.process_time()
            reader = wire.FrameReader(wire.ToHost)
            received = [message for at in range(0, len(data), 4096) for message in reader.feed(data[at : at + 4096])]
            best = min(best, time.process_time() - begin)
        assert len(received[0].input_ids) == length
        return best

    small, large = seconds(65_536), seconds(524_288)
    assert large < 8 * 4 * small, (small, large)
