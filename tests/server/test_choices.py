"""Several answers of the ensemble on the real server: equal if nothing is drawn, each under the grammar and ended."""

from __future__ import annotations

import json
import queue
from typing import Any

import httpx
import jsonschema
import pytest
import tritonclient.grpc as triton_grpc

from tests.server.running import Server
from tests.server.test_chat import (
    SCHEMAS,
    chat_body,
    check_calls,
    inputs,
    over_grpc,
    put_together,
    streamed,
    tool_body,
    whole,
)

GREEDY = {"temperature": 0.0, "max_tokens": 24, "n": 3}


def by_choice(parts: list[dict[str, Any]], n: int = 3) -> list[list[dict[str, Any]]]:
    assert {part["index"] for part in parts} == set(range(n))
    return [[part for part in parts if part["index"] == number] for number in range(n)]


def test_three_greedy_answers_are_equal_streamed_as_whole(trained: Server) -> None:
    """With random weights two ids are too often as likely, up to rounding."""
    answer = whole(trained, chat_body(**GREEDY))
    assert answer["index"] == [0, 1, 2]
    assert len(set(answer["text_output"])) == 1
    (single,) = {whole(trained, chat_body(**{**GREEDY, "n": 1}))["text_output"]}
    assert answer["text_output"] == [single] * 3
    usage = json.loads(answer["usage"])
    parts = over_grpc(trained, chat_body(**GREEDY))
    for choice in by_choice(parts):
        assert put_together(choice)[0] == single
    # One last response, with the totals; over gRPC it has Triton's final flag.
    assert ["usage" in part for part in parts] == [False] * (len(parts) - 1) + [True]
    counted = json.loads(parts[-1]["usage"])
    assert {**counted, "prompt_tokens_details": 0} == {**usage, "prompt_tokens_details": 0}
    assert counted["total_tokens"] == counted["prompt_tokens"] + counted["completion_tokens"]


@pytest.mark.parametrize("ask", [streamed, over_grpc])
def test_three_sampled_answers_each_call_a_declared_tool_in_its_schema(server: Server, ask: Any) -> None:
    found = [put_together(choice) for choice in by_choice(ask(server, tool_body(n=3)))]
    for _, calls, finish in found:
        check_calls(calls, finish)
    assert len({json.dumps(calls) for _, calls, _ in found}) > 1


def test_one_response_with_three_elements_over_generate_and_grpc(server: Server) -> None:
    answer = whole(server, tool_body(n=3))
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer("kimi_k2", list(inputs(tool_body(n=3))))
        result, error = results.get(timeout=120)
        assert error is None
        assert result.get_response().parameters["triton_final_response"].bool_param
        again = {
            name: [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy(name).tolist()]
            for name in ("index", "tool_calls", "finish_reason", "text_output")
        }
    for each in (answer, again):
        assert each["index"] == [0, 1, 2]
        assert each["finish_reason"] == ["tool_calls"] * 3
        for calls in map(json.loads, each["tool_calls"]):
            for call in calls:
                arguments = json.loads(call["function"]["arguments"])
                jsonschema.validate(arguments, SCHEMAS[call["function"]["name"]])


@pytest.mark.parametrize(("n", "message"), [(0, "invalid_value: n: "), (9, "limit_exceeded: n: ")])
def test_a_number_out_of_range_gets_one_clear_error(server: Server, n: int, message: str) -> None:
    for stream in (False, True):
        answer = httpx.post(server.generate(stream=stream), json=chat_body(n=n, stream=stream), timeout=60)
        assert answer.status_code == 400
        assert message in answer.text
