"""/v1/chat/completions: what official SDKs rely on, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.frontend.asking import LOOK, chat, frames, put_together, user
from tests.frontend.conftest import CONTEXT
from tests.frontend.scripted import CACHED, ScriptedEngine

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
ANSWERS = [
    "say plain text",
    "say 漢字 and 🏃 and \n\n lines",
    'call look {"city":"Zürich"}',
    'call look {"city":"A"} ; look {"city":"B"}',
    'raw before{tool_calls_section_begin}{tool_call_begin}functions.look:7{tool_call_argument_begin}{"city":"C"}'
    "{tool_call_end}{tool_calls_section_end}after",
    "raw a{tool_call_begin}functions.unknown:0{tool_call_argument_begin}[]{tool_call_end}",
]


async def post(http: httpx.AsyncClient, body: dict[str, Any], status: int = 200) -> Any:
    response = await http.post(PATH, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize("text", ANSWERS)
async def test_a_stream_put_together_is_the_whole_answer(http: httpx.AsyncClient, text: str) -> None:
    whole = (await post(http, chat(text, tools=[LOOK])))["choices"][0]
    streamed = put_together(frames(await http.post(PATH, json=chat(text, tools=[LOOK], stream=True))))
    assert streamed["content"] == (whole["message"]["content"] or "")
    assert streamed["tool_calls"] == whole["message"].get("tool_calls", [])
    assert streamed["finish_reasons"] == [whole["finish_reason"]]


async def test_a_stream_begins_with_the_role_and_ends_with_an_empty_delta_usage_and_done(
    http: httpx.AsyncClient,
) -> None:
    body = chat("say ab", stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = frames(await http.post(PATH, json=body))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED}
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1


async def test_usage_can_come_with_every_chunk(http: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, _ = frames(await http.post(PATH, json=chat("say abc", stream=True, stream_options=options)))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 4


async def test_several_choices_are_generations_of_their_own(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await post(http, chat("say ab", n=3, seed=5))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted(run.sampling["sampling_seed"] for run in engine.runs) == [5, 6, 7]
    assert answer["usage"]["prompt_tokens"] == len(engine.runs[0].input_ids)
    assert answer["usage"]["completion_tokens"] == 9


async def test_several_choices_stream_side_by_side(http: httpx.AsyncClient) -> None:
    chunks = frames(await http.post(PATH, json=chat('call look {"city":"A"}', tools=[LOOK], n=2, stream=True)))
    for choice in (0, 1):
        merged = put_together(chunks, choice)
        assert merged["finish_reasons"] == ["tool_calls"]
        assert json.loads(merged["tool_calls"][0]["function"]["arguments"]) == {"city": "A"}


async def test_one_failing_choice_fails_the_request_and_ends_the_others(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    answer = await post(http, chat("fail overloaded", n=2), 429)
    assert answer["error"]["code"] == "overloaded"
    assert engine.in_flight == 0


async def test_length_is_reported_as_length(http: httpx.AsyncClient) -> None:
    for options in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = await post(http, chat("say abcdef", **options))
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["choices"][0]["message"]["content"] == "ab"


async def test_without_a_length_the_rest_of_the_context_is_allowed(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    await post(http, chat("say ab"))
    assert engine.runs[0].sampling["max_new_tokens"] == CONTEXT - len(engine.runs[0].input_ids)


@pytest.mark.parametrize("tools", [None, [LOOK]])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_and_the_generation(
    http: httpx.AsyncClient, engine: ScriptedEngine, tools: Any, stream: bool
) -> None:
    body = chat("say one STOP two", stop=["STOP"], tools=tools, stream=stream)
    response = await http.post(PATH, json=body)
    if stream:
        merged = put_together(frames(response))
        assert (merged["content"], merged["finish_reasons"]) == ("one ", ["stop"])
    else:
        assert response.json()["choices"][0]["message"]["content"] == "one "
    assert (engine.in_flight, engine.ended_early) == (0, 1)


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_a_stop_string_that_the_engine_does_not_know_is_watched_for_while_it_runs(
    http: httpx.AsyncClient, engine: ScriptedEngine, choice: str
) -> None:
    answer = await post(http, chat("say one STOP two", stop="STOP", tools=[LOOK], tool_choice=choice))
    assert "stop" not in engine.runs[0].sampling
    assert engine.runs[0].stream, "the engine would say nothing before its own end"
    assert answer["usage"]["completion_tokens"] < len("one STOP two")
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": CACHED}


async def test_a_stop_string_in_arguments_is_data(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await post(http, chat('call look {"city":"STOP"}', stop="STOP", tools=[LOOK]))
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert "stop" not in engine.runs[0].sampling


async def test_log_probabilities_are_those_of_the_content(http: httpx.AsyncClient) -> None:
    text = 'raw hé{tool_calls_section_begin}{tool_call_begin}functions.look:0{tool_call_argument_begin}{"city":"C"}'
    body = chat(text + "{tool_call_end}{tool_calls_section_end}", tools=[LOOK], logprobs=True, top_logprobs=2)
    whole = (await post(http, body))["choices"][0]["logprobs"]["content"]
    assert bytes(b for entry in whole for b in entry["bytes"]).decode() == "hé"
    assert [len(entry["top_logprobs"]) for entry in whole] == [2] * len(whole)
    chunks = frames(await http.post(PATH, json={**body, "stream": True}))
    streamed = [
        entry
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        if choice["logprobs"]
        for entry in choice["logprobs"]["content"]
    ]
    assert streamed == whole


async def test_tool_ids_go_on_over_the_conversation_whatever_the_client_called_them(
    http: httpx.AsyncClient,
) -> None:
    past = [
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_x", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_x", "content": "rain"},
    ]
    body = {"model": "kimi_k2", "messages": [*past, *user('call look {"city":"A"}')], "tools": [LOOK]}
    assert (await post(http, body))["choices"][0]["message"]["tool_calls"][0]["id"] == "functions.look:1"


async def test_parallel_tool_calls_false_gives_one_call(http: httpx.AsyncClient) -> None:
    body = chat('call look {"city":"A"} ; look {"city":"B"}', tools=[LOOK], parallel_tool_calls=False)
    assert len((await post(http, body))["choices"][0]["message"]["tool_calls"]) == 1


@pytest.mark.parametrize(
    "choice",
    ["auto", "required", {"type": "function", "function": {"name": "look"}}, "none"],
    ids=["auto", "required", "named", "none"],
)
async def test_every_tool_choice_constrains_the_engine(
    http: httpx.AsyncClient, engine: ScriptedEngine, choice: Any
) -> None:
    answer = (await post(http, chat('call look {"city":"A"}', tools=[LOOK], tool_choice=choice)))["choices"][0]
    assert "structural_tag" in engine.runs[0].sampling
    # The scripted engine obeys no grammar: with `none` the parser alone keeps the promise.
    expected = "stop" if choice == "none" else "tool_calls"
    assert answer["finish_reason"] == expected


async def test_a_response_format_constrains_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    await post(http, chat("say 1", response_format=schema))
    assert "structural_tag" in engine.runs[0].sampling


async def test_sampling_reaches_the_engine_under_its_own_names(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    given = {
        "temperature": 0.1,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": 1.5},
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [7],
    }
    await post(http, chat("say ab", **given))
    sampling = engine.runs[0].sampling
    assert {sampling[name] for name in ("temperature", "top_p", "top_k")} == {0.1, 0.5, 3}
    assert sampling["min_new_tokens"] == 2
    assert sampling["logit_bias"] == {"5": 1.5}
    assert 7 in sampling["stop_token_ids"]


async def test_the_checkpoints_temperature_is_the_default(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    await post(http, chat("say ab"))
    assert engine.runs[0].sampling["temperature"] == 0.6


async def test_harmless_fields_are_accepted_and_never_reach_the_engine(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    harmless = {"user": "u", "metadata": {"a": "b"}, "prompt_cache_key": "k", "thinking": {"type": "disabled"}}
    await post(http, chat("say ab", **harmless))
    assert not set(harmless) & set(engine.runs[0].sampling)


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"model": "gpt-x"}, 404, "model_not_found", "model"),
        ({"tool_choice": "required"}, 400, "missing_field", "tools"),
        ({"surprise": 1}, 400, "unknown_field", "surprise"),
        ({"functions": [{"name": "f"}]}, 400, "unsupported", "functions"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "invalid_value", "max_completion_tokens"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"n": 33}, 400, "limit_exceeded", "n"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "limit_exceeded", "top_logprobs"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": None}, 400, "missing_field", "messages"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
        ({"modalities": ["audio"]}, 400, "unsupported", "modalities"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "unsupported",
            "messages[0].content[0].type",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            400,
            "invalid_schema",
            None,
        ),
    ],
)
async def test_what_is_wrong_is_refused_by_name_before_the_engine_is_asked(
    http: httpx.AsyncClient, engine: ScriptedEngine, options: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    error = (await post(http, {**chat("say ab"), **options}, status))["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    if param is not None:
        assert error["param"] == param
    assert engine.runs == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (PATH, chat("x" * CONTEXT), "messages"),
        ("/v1/completions", {"model": "kimi_k2", "prompt": "x" * CONTEXT}, "prompt"),
        ("/v1/responses", {"model": "kimi_k2", "input": "x" * CONTEXT, "instructions": "a"}, "input"),
    ],
)
async def test_a_prompt_past_the_context_is_refused_by_its_field_with_both_numbers(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    response = await http.post(path, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", field)
    assert str(CONTEXT) in error["message"]


@pytest.mark.parametrize(
    ("code", "status"),
    [("engine_unavailable", 503), ("request_quarantined", 503), ("overloaded", 429), ("internal", 500)],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_refuses_is_a_status_and_not_a_stream(
    http: httpx.AsyncClient, code: str, status: int, stream: bool
) -> None:
    response = await http.post(PATH, json=chat(f"fail {code}", stream=stream))
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_an_error_in_mid_stream_is_a_frame_in_the_envelope_and_the_last_one(http: httpx.AsyncClient) -> None:
    response = await http.post(PATH, json=chat("break engine_lost", stream=True))
    assert response.status_code == 200
    *chunks, last = frames(response)
    assert put_together(chunks)["content"] == "one two"
    assert last["error"]["code"] == "engine_lost"


async def test_render_shows_what_would_be_sent(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    body = chat("say ab", tools=[LOOK])
    shown = (await http.post(f"{PATH}/render", json=body)).json()
    assert engine.runs == []
    await post(http, body)
    assert shown["token_ids"] == list(engine.runs[0].input_ids)
    header = "<|im_assistant|>assistant<|im_middle|>"
    assert shown["prompt"].endswith(f"<|im_user|>user<|im_middle|>say ab<|im_end|>{header}")
