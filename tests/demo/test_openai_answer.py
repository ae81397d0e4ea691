"""Answers of foreign endpoints: read whole and streamed to the same thing, and refused where they are not OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kimi_k2_serving.demo.call_scoring import trigger_score
from kimi_k2_serving.demo.openai_answer import BadAnswer, EndpointAnswer, EndpointCall, StreamedAnswer, read_whole

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
CALL = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
EXPECTED = EndpointAnswer("so", [EndpointCall("functions.f:0", "f", '{"a": 1}')], "tool_calls", USAGE)


def whole(**message: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return json.dumps({"choices": [choice], "usage": USAGE}).encode()


def delta(finish_reason: str | None = None, **delta: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def call(**function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": function}]}


LINES = [
    ": a comment",
    delta(role="assistant", content=""),
    delta(content="s"),
    delta(content="o"),
    delta(tool_calls=[{"index": 0, "id": "functions.f:0", "function": {"name": "f", "arguments": ""}}]),
    delta(**call(arguments='{"a"')),
    delta(**call(arguments=": 1}")),
    delta("tool_calls"),
    "data: " + json.dumps({"choices": [], "usage": USAGE}),
    "",
    "data: [DONE]",
    "data: nothing that counts",
]


def streamed(lines: list[str]) -> EndpointAnswer:
    answer = StreamedAnswer()
    for line in lines:
        answer.feed(line)
    return answer.finish()


def test_whole_and_streamed_are_the_same_answer() -> None:
    assert read_whole(whole(content="so", tool_calls=[CALL])) == EXPECTED
    assert streamed(LINES) == EXPECTED
    assert EXPECTED.text == 'sof{"a": 1}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"finish_reason": "stop"}]}',
        whole(content="", tool_calls=[{**CALL, "function": {"name": "f"}}]),
        whole(content="", tool_calls=[{"function": CALL["function"]}]),
    ],
)
def test_what_is_not_openai_s_form_is_a_bad_answer(text: bytes) -> None:
    with pytest.raises(BadAnswer, match="OpenAI's form"):
        read_whole(text)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([*LINES[:7], "data: [DONE]"], "without a finish_reason"),
        (LINES[:8], "without a finish_reason"),
        (['data: {"error": {"message": "no memory"}}'], "no memory"),
        (["data: {"], "OpenAI's form"),
        (["data: 3"], "OpenAI's form"),
        ([delta(content=3)], "OpenAI's form"),
        ([delta(tool_calls=[{"function": {"name": "f"}}])], "OpenAI's form"),
    ],
)
def test_a_stream_that_breaks_off_or_has_another_form_is_a_bad_answer(lines: list[str], says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        streamed(lines)


def test_precision_and_recall_are_not_known_without_calls() -> None:
    score = trigger_score([(False, False)])
    assert (score.precision, score.recall) == (None, None)
    score = trigger_score([(True, True), (False, True), (True, False), (True, False)])
    assert (score.precision, score.recall) == (0.5, pytest.approx(1 / 3))
