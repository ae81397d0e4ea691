"""A frame is one line to every client, whatever it takes for a line."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.frontend import sse


@given(st.text() | st.text(alphabet="a\n\r\x0b\x0c\x1c\x85\u2028\u2029"))
def test_no_text_breaks_a_frame_and_none_is_lost(text: str) -> None:
    frame = sse.data({"delta": text})
    assert frame.decode().splitlines() == [frame.decode().removesuffix("\n\n"), ""]
    assert json.loads(frame.removeprefix(b"data: ")) == {"delta": text}
