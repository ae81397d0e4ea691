"""What all four clients promise: the same answers, the same errors, the same ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_triton import IDS, Broken, Refusal, Step, script
from peers import Peer

from kimi_k2_client import (
    Cancelled,
    ChatAnswer,
    ConnectionLost,
    ContentDelta,
    Finished,
    FinishReason,
    InvalidRequest,
    KimiError,
    Model,
    NotFound,
    Retry,
    ServerHealth,
    Stats,
    TokensAnswer,
    TokensDelta,
    ToolCall,
    ToolCallDelta,
    Unavailable,
    UnexpectedAnswer,
    Usage,
    collect,
    collect_tokens,
)

NAME = "functions.get_weather:0"
USAGE = '{"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}'


def call_delta(**function: str) -> str:
    return json.dumps([{"index": 0, "function": function}])


STREAMED: list[Step] = [
    {"text_output": "grüß"},
    {"text_output": ""},
    {"text_output": " dich 😀"},
    {
        "text_output": "",
        "tool_calls": json.dumps([{"index": 0, "id": NAME, "type": "function", "function": {"name": "get_weather"}}]),
    },
    {"tool_calls": call_delta(arguments='{"city": "Li')},
    {"tool_calls": call_delta(arguments='sboa"}')},
    {"finish_reason": "tool_calls", "usage": USAGE},
]
WHOLE: list[Step] = [
    {
        "text_output": "grüß dich 😀",
        "tool_calls": json.dumps(
            [{"id": NAME, "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisboa"}'}}]
        ),
        "finish_reason": "tool_calls",
        "usage": USAGE,
    }
]
ANSWER = ChatAnswer(
    content="grüß dich 😀",
    tool_calls=(ToolCall(NAME, "get_weather", '{"city": "Lisboa"}'),),
    finish_reason=FinishReason.TOOL_CALLS,
    usage=Usage(3, 5, 8, 2),
)
OVERLOADED = Refusal("in ensemble 'kimi_k2', overloaded: 8 requests wait: send it again later", status=503)


def test_a_whole_answer_is_decoded(peer: Peer) -> None:
    assert peer.call(script(WHOLE), "chat", "hi") == ANSWER


def test_a_streamed_answer_comes_as_typed_events_and_ends_with_finished(peer: Peer) -> None:
    assert peer.call(script(STREAMED), "chat_stream", "hi") == [
        ContentDelta("grüß"),
        ContentDelta(" dich 😀"),
        ToolCallDelta(0, NAME, "get_weather", ""),
        ToolCallDelta(0, arguments='{"city": "Li'),
        ToolCallDelta(0, arguments='sboa"}'),
        Finished(FinishReason.TOOL_CALLS, Usage(3, 5, 8, 2)),
    ]


def test_streamed_deltas_put_together_equal_the_whole_answer(peer: Peer) -> None:
    assert collect(peer.call(script(STREAMED), "chat_stream", "hi")) == peer.call(script(WHOLE), "chat", "hi")


def test_what_no_grammar_held_comes_with_the_end_whole_and_streamed(peer: Peer) -> None:
    report = {"relaxed": ["tools[0].function.parameters.x: pattern"], "invalid": [{"index": 0, "problems": ["y"]}]}
    tensor = {"enforcement": json.dumps(report)}
    answer = peer.call(script([*WHOLE[:-1], {**WHOLE[-1], **tensor}]), "chat", "hi")
    assert answer.enforcement == report
    *_, last = peer.call(script([*STREAMED[:-1], {**STREAMED[-1], **tensor}]), "chat_stream", "hi")
    assert last.enforcement == report


def test_what_had_no_effect_comes_with_the_end_whole_and_streamed(peer: Peer) -> None:
    tensor = {"notices": '["seed: has no effect"]'}
    answer = peer.call(script([*WHOLE[:-1], {**WHOLE[-1], **tensor}]), "chat", "hi")
    *_, last = peer.call(script([*STREAMED[:-1], {**STREAMED[-1], **tensor}]), "chat_stream", "hi")
    assert answer.notices == last.notices == ("seed: has no effect",)


def test_every_option_reaches_its_tensor(peer: Peer) -> None:
    wanted = script(WHOLE)
    peer.call(
        wanted,
        "chat",
        [{"role": "user", "content": "é"}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="required",
        parallel_tool_calls=False,
        response_format={"type": "text"},
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=2**64 - 1,
        stop=["a", "b"],
        sampling_parameters={"top_k": 3},
    )
    asked = {
        name: value[0] if isinstance(value, list) and name != "stop_words" else value
        for name, value in wanted.asked[0].items()
    }
    assert wanted.models == ["kimi_k2"]
    assert asked == {
        "messages": '[{"role": "user", "content": "é"}]',
        "tools": '[{"type": "function", "function": {"name": "f"}}]',
        "tool_choice": '"required"',
        "parallel_tool_calls": False,
        "response_format": '{"type": "text"}',
        "stream": False,
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 2**64 - 1,
        "stop_words": ["a", "b"],
        "sampling_parameters": '{"top_k": 3}',
    }


def test_the_engine_takes_ids_and_gives_ids(peer: Peer) -> None:
    steps: list[Step] = [
        {"text_output": "<5>", "output_ids": 5},
        {"text_output": "<6><7>", "output_ids": [6, 7]},
        {"output_ids": [], "finish_reason": "length", "num_input_tokens": 2, "num_cached_tokens": 1},
    ]
    wanted = script(steps)
    events = peer.call(wanted, "generate_stream", [1, 2])
    usage = Usage(2, 3, 5, 1)
    assert events == [
        TokensDelta("<5>", (5,)),
        TokensDelta("<6><7>", (6, 7)),
        Finished(FinishReason.LENGTH, usage),
    ]
    assert collect_tokens(events) == TokensAnswer("<5><6><7>", (5, 6, 7), FinishReason.LENGTH, usage)
    assert wanted.models == ["kimi_k2_engine"]
    assert wanted.asked[0]["input_ids"] == [1, 2]


def test_the_engine_takes_text(peer: Peer) -> None:
    wanted = script([{"text_output": "b", "output_ids": 9, "finish_reason": "stop"}])
    assert peer.call(wanted, "generate", "a") == TokensAnswer("b", (9,), FinishReason.STOP, None)
    assert wanted.asked[0]["text_input"] in ("a", ["a"])


def test_an_aborted_run_is_cancelled(peer: Peer) -> None:
    with pytest.raises(Cancelled):
        peer.call(script([{"text_output": "b", "finish_reason": "abort"}]), "generate", "a")


@pytest.mark.parametrize("method", ["chat", "chat_stream"])
def test_a_refusal_names_its_code_and_field(peer: Peer, method: str) -> None:
    refusal = Refusal("in ensemble 'kimi_k2', invalid_type: messages[0].content: text expected: not 3")
    with pytest.raises(InvalidRequest) as caught:
        peer.call(script([refusal]), method, "hi")
    error = caught.value
    assert (error.code, error.field, error.detail) == ("invalid_type", "messages[0].content", "text expected: not 3")
    assert error.status == 400


@pytest.mark.parametrize("method", ["chat", "chat_stream"])
def test_a_model_that_is_not_there_is_not_found(peer: Peer, method: str) -> None:
    with pytest.raises(NotFound):
        peer.call(script([Refusal("Request for unknown model: 'kimi_k2' is not found", 404)]), method, "hi")


def test_a_refusal_in_the_middle_of_an_answer_is_raised_there(peer: Peer) -> None:
    steps: list[Step] = [{"text_output": "one "}, Refusal("in ensemble 'kimi_k2', engine_lost: the engine died")]
    with pytest.raises(Unavailable) as caught:
        peer.call(script(steps), "chat_stream", "hi")
    assert caught.value.code == "engine_lost"
    assert peer.slept == []


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("chat", [{"text_output": "one "}]),
        ("chat", [{"text_output": "one "}, Broken()]),
        ("chat_stream", [{"text_output": "one "}]),
        ("chat_stream", [{"text_output": "one "}, Broken()]),
        ("chat_stream", []),
        ("generate", [{"text_output": "one "}]),
    ],
)
def test_an_answer_without_an_end_is_a_lost_connection(peer: Peer, method: str, steps: list[Step]) -> None:
    with pytest.raises(ConnectionLost):
        peer.call(script(steps), method, "hi")


def test_leaving_early_cancels_the_request(peer: Peer) -> None:
    steps: list[Step] = [{"text_output": "word " * 1000} for _ in range(1000)]
    wanted = script(steps)
    assert peer.call(wanted, "chat_stream", "hi", take=2) == [ContentDelta("word " * 1000)] * 2
    assert wanted.abandoned.wait(10)


def test_an_answer_read_to_its_end_is_not_cancelled(peer: Peer) -> None:
    wanted = script(STREAMED)
    peer.call(wanted, "chat_stream", "hi")
    assert not wanted.abandoned.is_set()


@pytest.mark.parametrize("method", ["chat", "chat_stream"])
def test_an_unavailable_server_is_asked_again(peer: Peer, method: str) -> None:
    answer = WHOLE if method == "chat" else STREAMED
    wanted = script([OVERLOADED], [OVERLOADED], answer)
    result = peer.call(wanted, method, "hi")
    assert (result if method == "chat" else collect(result)) == ANSWER
    assert peer.slept == [0.125, 0.25]
    assert wanted.asked[0] == wanted.asked[2]


def test_retries_end(peer: Peer) -> None:
    wanted = script([OVERLOADED])
    with pytest.raises(Unavailable) as caught:
        peer.call(wanted, "chat", "hi")
    assert caught.value.status == 429
    assert len(wanted.asked) == 3


def test_no_retries_means_one_attempt(peer: Peer) -> None:
    peer.retry = Retry(retries=0)
    wanted = script([OVERLOADED])
    with pytest.raises(Unavailable):
        peer.call(wanted, "chat", "hi")
    assert len(wanted.asked) == 1


def test_what_is_wrong_with_the_request_is_not_asked_again(peer: Peer) -> None:
    wanted = script([Refusal("invalid_value: max_tokens: must be at least 1")])
    with pytest.raises(InvalidRequest):
        peer.call(wanted, "chat", "hi")
    assert len(wanted.asked) == 1


@pytest.mark.parametrize(
    "outputs",
    [
        {"text_output": "a", "finish_reason": "because"},
        {"text_output": "a", "tool_calls": "[", "finish_reason": "stop"},
        {"text_output": "a", "tool_calls": "{}", "finish_reason": "stop"},
        {"text_output": "a", "tool_calls": '[{"index": 0, "function": {"name": 3}}]', "finish_reason": "stop"},
        {"text_output": "a", "tool_calls": '[{"index": 0, "function": {"arguments": "{}"}}]', "finish_reason": "stop"},
        {"text_output": "a", "usage": "[]", "finish_reason": "stop"},
    ],
)
def test_an_answer_of_another_protocol_is_unexpected(peer: Peer, outputs: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedAnswer):
        peer.call(script([outputs]), "chat", "hi")


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_an_output_of_another_type_is_unexpected(peer: Peer, method: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="text_output is not str"):
        peer.call(script([{"text_output": IDS, "finish_reason": "stop"}]), method, "hi")


def test_readiness_and_the_repository_index(peer: Peer) -> None:
    assert peer.call(script(), "ready") is True
    assert peer.call(script(), "models") == [Model("kimi_k2", "1", True, ""), Model("b", "", False, "why")]


def test_waiting_returns_once_the_model_is_ready(peer: Peer) -> None:
    assert peer.call(script(), "wait_ready", 5) is None
    assert peer.slept == []


def test_waiting_for_a_model_ends(peer: Peer) -> None:
    peer.model = "absent"
    with pytest.raises(Unavailable, match="absent was not ready within 3 s"):
        peer.call(script(), "wait_ready", 3)
    assert sum(peer.slept) == 3


def test_every_error_is_a_kimi_error_with_its_code_in_front(peer: Peer) -> None:
    with pytest.raises(KimiError, match=r"^invalid_value: top_p: must be at most 1$"):
        peer.call(script([Refusal("invalid_value: top_p: must be at most 1")]), "chat", "hi")


def test_health_says_what_is_up(peer: Peer) -> None:
    assert peer.call(script(WHOLE), "health") == ServerHealth(live=True, ready=True, model_ready=True)
    peer.model = "loading"
    found = peer.call(script(WHOLE), "health")
    assert (found.live, found.ready, found.model_ready) == (True, True, False)
    assert "loading" in found.detail


def test_stats_are_tritons_counts(peer: Peer) -> None:
    assert peer.call(script(WHOLE), "stats") == Stats("kimi_k2", 4, 1, 2, seconds=0.5, queue_seconds=0.1)


def test_a_text_is_completed_whole_and_streamed(peer: Peer) -> None:
    steps: list[Step] = [{"text_output": "b", "output_ids": 9, "finish_reason": "stop"}]
    assert peer.call(script(steps), "complete", "a").text == "b"
    assert collect_tokens(peer.call(script(steps), "complete_stream", "a")).text == "b"
