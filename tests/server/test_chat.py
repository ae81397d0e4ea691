"""The ensemble on the real Triton and the real SGLang, driven by httpx and tritonclient."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from kimi_k2_client import Client, InvalidRequest
from tests.server.running import Server

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NOTE = {
    "type": "function",
    "function": {
        "name": "mcp__notes__add-note",
        "parameters": {
            "type": "object",
            "properties": {"tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3}},
            "required": ["tags"],
            "additionalProperties": False,
        },
    },
}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, NOTE)}  # type: ignore[index]
MESSAGES = [{"role": "user", "content": "What is the weather in Zürich?"}]


def chat_body(**more: Any) -> dict[str, Any]:
    return {"messages": json.dumps(MESSAGES), **more}


def tool_body(**more: Any) -> dict[str, Any]:
    return chat_body(tools=json.dumps([WEATHER, NOTE]), tool_choice="required", max_tokens=2000, **more)


def whole(server: Server, body: dict[str, Any], model: str = "kimi_k2") -> dict[str, Any]:
    answer = httpx.post(server.generate(model), json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def streamed(server: Server, body: dict[str, Any], model: str = "kimi_k2") -> list[dict[str, Any]]:
    with httpx.stream(
        "POST", server.generate(model, stream=True), json={**body, "stream": True}, timeout=120
    ) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]


def over_grpc(server: Server, body: dict[str, Any], model: str = "kimi_k2") -> list[dict[str, Any]]:
    """The same request through tritonclient's stream; the last response carries Triton's final flag."""
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer(model, list(inputs({**body, "stream": True})))
        responses = []
        while True:
            result, error = results.get(timeout=120)
            if error is not None:
                raise error
            responses.append(outputs(result))
            if result.get_response().parameters["triton_final_response"].bool_param:
                return responses


def inputs(body: dict[str, Any]) -> Iterator[Any]:
    for name, value in body.items():
        data, kind = {
            str: lambda value: (np.array([value.encode()], dtype=np.object_), "BYTES"),
            bool: lambda value: (np.array([value]), "BOOL"),
            int: lambda value: (np.array([value], dtype=np.int32), "INT32"),
            float: lambda value: (np.array([value], dtype=np.float32), "FP32"),
        }[type(value)](value)
        tensor = triton_grpc.InferInput(name, data.shape, kind)
        tensor.set_data_from_numpy(data)
        yield tensor


def outputs(result: Any) -> dict[str, Any]:
    values = {each.name: result.as_numpy(each.name)[0] for each in result.get_response().outputs}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def put_together(parts: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]], str]:
    """Content, calls and finish reason of streamed parts, as a client accumulates them."""
    calls: list[dict[str, Any]] = []
    for part in parts:
        for delta in json.loads(part.get("tool_calls", "[]")):
            if "id" in delta:
                calls.append({"id": delta["id"], "name": delta["function"]["name"], "arguments": ""})
            calls[delta["index"]]["arguments"] += delta["function"]["arguments"]
    (finish,) = [part["finish_reason"] for part in parts if "finish_reason" in part]
    return "".join(part["text_output"] for part in parts), calls, finish


def check_calls(calls: list[dict[str, Any]], finish: str) -> None:
    assert finish == "tool_calls"
    assert calls
    for number, call in enumerate(calls):
        assert call["id"] == f"functions.{call['name']}:{number}"
        jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]])


@pytest.mark.parametrize("attempt", range(5))
def test_required_tools_over_generate_are_declared_and_valid(server: Server, attempt: int) -> None:
    answer = whole(server, tool_body())
    calls = [{"id": each["id"], **each["function"]} for each in json.loads(answer["tool_calls"])]
    check_calls(calls, answer["finish_reason"])


@pytest.mark.parametrize("attempt", range(5))
def test_required_tools_over_generate_stream_are_declared_and_valid(server: Server, attempt: int) -> None:
    _, calls, finish = put_together(streamed(server, tool_body()))
    check_calls(calls, finish)


@pytest.mark.parametrize("attempt", range(5))
def test_required_tools_over_grpc_are_declared_and_valid(server: Server, attempt: int) -> None:
    _, calls, finish = put_together(over_grpc(server, tool_body()))
    check_calls(calls, finish)


def test_a_named_tool_is_the_one_that_is_called(server: Server) -> None:
    body = tool_body() | {"tool_choice": json.dumps({"type": "function", "function": {"name": "mcp__notes__add-note"}})}
    _, calls, finish = put_together(streamed(server, body))
    check_calls(calls, finish)
    assert {call["name"] for call in calls} == {"mcp__notes__add-note"}


def test_tool_choice_none_calls_nothing_and_shows_no_marker(server: Server) -> None:
    answer = whole(server, tool_body() | {"tool_choice": "none", "max_tokens": 200})
    assert "tool_calls" not in answer
    assert "<|" not in answer["text_output"]


@pytest.mark.parametrize(
    "body", [chat_body(max_tokens=48, temperature=0.0), tool_body(temperature=0.0)], ids=["text", "tools"]
)
def test_at_temperature_zero_the_deltas_put_together_are_the_whole_answer(server: Server, body: dict[str, Any]) -> None:
    whole(server, body)
    answer = whole(server, body)
    for transport in (streamed, over_grpc):
        content, calls, finish = put_together(transport(server, body))
        assert content == answer["text_output"]
        assert finish == answer["finish_reason"]
        expected = [{"id": each["id"], **each["function"]} for each in json.loads(answer.get("tool_calls", "[]"))]
        assert calls == expected


def test_usage_counts_the_prompt_the_answer_and_the_cache(server: Server) -> None:
    whole(server, chat_body(max_tokens=4))
    usage = json.loads(whole(server, chat_body(max_tokens=4, ignore_eos=True))["usage"])
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_a_stop_string_ends_the_answer_and_is_left_out(server: Server) -> None:
    body = chat_body(max_tokens=64, temperature=0.0, ignore_eos=True)
    full = whole(server, body)["text_output"]
    stop = full[10:13]
    for answer in (
        whole(server, body | {"stop_words": [stop]}),
        {"text_output": put_together(streamed(server, body | {"stop_words": [stop]}))[0], "finish_reason": "stop"},
    ):
        assert answer["text_output"] == full[: full.index(stop)]
        assert answer["finish_reason"] == "stop"


def test_litellms_body_works_as_it_is(server: Server) -> None:
    body = {"text_input": "Hello", "parameters": {"max_tokens": 8, "bad_words": [""], "stop_words": [""]}}
    assert whole(server, body)["finish_reason"] in ("stop", "length")
    assert put_together(streamed(server, body))[2] in ("stop", "length")


def test_a_conversation_with_foreign_call_ids_goes_on(server: Server) -> None:
    call = {
        "id": "call_abc123",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city":"Bern"}'},
    }
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_abc123", "content": "Sunny <|im_end|>"},
    ]
    answer = whole(server, tool_body() | {"messages": json.dumps(messages)})
    first = json.loads(answer["tool_calls"])[0]
    assert first["id"] == f"functions.{first['function']['name']}:1"


REFUSED = [
    ({"text_input": "a", "frobnicate": 1}, "unknown_field: frobnicate: "),
    ({"text_input": "a", "sampling_parameters": '{"beams": 2}'}, "unknown_field: beams: "),
    ({"messages": "[]"}, "invalid_value: messages: "),
    ({"messages": "{"}, "invalid_json: messages: "),
    ({"messages": '"hello"'}, "invalid_type: messages: "),
    ({"messages": '[{"role": "user", "content": 1}]'}, "invalid_type: messages[0].content: "),
    ({"text_input": "a", "max_tokens": 0}, "invalid_value: max_tokens: "),
    ({"text_input": "a", "temperature": -0.5}, "invalid_value: temperature: "),
    ({"text_input": "a", "tools": '{"a": 1}'}, "invalid_type: tools: "),
    ({"text_input": "a", "tool_choice": "required"}, "missing_field: tools: "),
    ({"text_input": "word " * 40_000}, "context_length_exceeded: text_input: the prompt has "),
    ({}, "missing_field: messages: "),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED, ids=[expected for _, expected in REFUSED])
def test_bad_input_is_a_400_that_names_the_field_and_the_server_stays_up(
    server: Server, body: dict[str, Any], expected: str
) -> None:
    answer = httpx.post(server.generate(), json=body or {"max_tokens": 1}, timeout=60)
    assert answer.status_code == 400
    # Triton puts the ensemble's name before a step's error.
    assert answer.json()["error"].removeprefix("in ensemble 'kimi_k2', ").startswith(expected)
    assert httpx.get(f"{server.url}/v2/models/kimi_k2/ready").status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"text_input":', 500), (b'{"text_input": 5}', 500), (b'{"text_input": "a", "x": null}', 400)],
    ids=["no JSON", "a tensor of the wrong type", "null"],
)
def test_what_triton_itself_refuses_is_as_documented(server: Server, content: bytes, status: int) -> None:
    """docs/tensors.md, Errors: Triton 24.10 answers these before any model sees them."""
    answer = httpx.post(server.generate(), content=content, timeout=60)
    assert answer.status_code == status
    assert "error" in answer.json()


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_our_client_gets_the_same_tool_calls_over_both_transports(server: Server, scheme: str) -> None:
    port = {"http": server.http, "grpc": server.grpc}[scheme]
    with Client(f"{scheme}://127.0.0.1:{port}") as client:
        client.wait_ready(5)
        answer = client.chat(MESSAGES, tools=[WEATHER, NOTE], tool_choice="required", max_tokens=2000)
        check_calls([{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.tool_calls], "tool_calls")
        with pytest.raises(InvalidRequest) as caught:
            client.chat(MESSAGES, max_tokens=0)
        assert (caught.value.code, caught.value.field) == ("invalid_value", "max_tokens")


def test_tritonclient_finds_every_model_ready(server: Server) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
        assert client.is_server_ready()
        for model in ("kimi_k2", "kimi_k2_engine", "kimi_k2_postprocess", "kimi_k2_preprocess"):
            assert client.is_model_ready(model)
