from __future__ import annotations

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
            stream=st.booleans(),
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
