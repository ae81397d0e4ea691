"""A frame is one line to every client, whatever it takes for a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.frontend import sse


@given(st.text() | st.text(alphabet="a\n\r\x0b\x0c\x1c\x85\u2028\u2029"))
def test_no_text_breaks_a_frame_and_none_is_lost(text: str) -> None:
    frame = sse.data({"delta": text})
    assert frame.decode().splitlines() == [frame.decode().removesuffix("\n\n"), ""]
    assert json.loads(frame.removeprefix(b"data: ")) == {"delta": text}


@pytest.mark.parametrize("value", ["\ud800", float("1e22"), 2**70, {"a": [None, True, 0.1]}])
def test_what_the_fast_writer_refuses_is_written_too(value: object) -> None:
    document = {"value": value, "part": sse.written(b"[1]")}
    read = json.loads(sse.encode_json(document))  # type: ignore[arg-type]
    assert read == {"value": "?" if value == "\ud800" else value, "part": [1]}
