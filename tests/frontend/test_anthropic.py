"""/v1/messages and its token count: what Anthropic's SDKs and coding agents rely on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.frontend.asking import ANTHROPIC_LOOK, LOOK, chat, events, messages, user
from tests.frontend.conftest import CONTEXT
from tests.frontend.scripted import CACHED, ScriptedEngine

USED = {"type": "tool_use", "id": "a", "name": "look", "input": {}}

pytestmark = pytest.mark.anyio
PATH = "/v1/messages"
MIXED = (
    'raw before{tool_calls_section_begin}{tool_call_begin}functions.look:0{tool_call_argument_begin}{"city":"C"}'
    '{tool_call_end}{tool_call_begin}functions.look:1{tool_call_argument_begin}{"city":"D"}{tool_call_end}'
    "{tool_calls_section_end}after"
)


async def post(http: httpx.AsyncClient, body: dict[str, Any], status: int = 200) -> Any:
    response = await http.post(PATH, json=body)
    assert response.status_code == status, response.text
    return response.json()


def rebuilt(found: list[tuple[str, Any]]) -> dict[str, Any]:
    """A stream's message put together as the SDK does, with its own rules checked: one block open, no gaps."""
    assert found[0][0] == "message_start"
    message = dict(found[0][1]["message"])
    content: list[dict[str, Any]] = []
    opened = False
    for name, data in found[1:]:
        match name:
            case "content_block_start":
                assert not opened
                assert data["index"] == len(content)
                content.append({**data["content_block"], "json": ""})
                opened = True
            case "content_block_delta":
                assert opened
                assert data["index"] == len(content) - 1
                delta = data["delta"]
                if delta["type"] == "text_delta":
                    content[-1]["text"] += delta["text"]
                else:
                    content[-1]["json"] += delta["partial_json"]
            case "content_block_stop":
                opened = False
            case "message_delta":
                assert not opened
                message |= data["delta"]
                message["usage"] = data["usage"]
    for block in content:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text)
    assert found[-1][0] == "message_stop"
    return {**message, "content": content, "id": ""}


@pytest.mark.parametrize("text", ["say plain", 'call look {"city":"Zürich"}', MIXED, "say a STOP b"])
async def test_a_stream_put_together_is_the_whole_message(http: httpx.AsyncClient, text: str) -> None:
    body = messages(text, tools=[ANTHROPIC_LOOK], stop_sequences=["STOP"])
    whole = await post(http, body)
    streamed = events(await http.post(PATH, json={**body, "stream": True}))
    assert rebuilt(streamed) == {**whole, "id": ""}


async def test_text_before_between_and_after_calls_has_blocks_of_its_own(http: httpx.AsyncClient) -> None:
    answer = await post(http, messages(MIXED, tools=[ANTHROPIC_LOOK]))
    kinds = [block["type"] for block in answer["content"]]
    assert kinds == ["text", "tool_use", "tool_use", "text"]
    assert answer["content"][1]["input"] == {"city": "C"}
    assert answer["stop_reason"] == "tool_use"


async def test_the_stop_sequence_that_matched_is_named(http: httpx.AsyncClient) -> None:
    answer = await post(http, messages("say one two three", stop_sequences=["nothing", "two"]))
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "two")
    assert answer["content"] == [{"type": "text", "text": "one "}]


async def test_stop_reasons_are_true(http: httpx.AsyncClient) -> None:
    assert (await post(http, messages("say ab")))["stop_reason"] == "end_turn"
    assert (await post(http, messages("say abcdef", max_tokens=2)))["stop_reason"] == "max_tokens"


async def test_a_call_cut_short_keeps_its_text_and_claims_no_input(http: httpx.AsyncClient) -> None:
    answer = await post(http, messages('call look {"city":"Zürich"}', tools=[ANTHROPIC_LOOK], max_tokens=24))
    assert answer["stop_reason"] == "max_tokens"
    assert [block["type"] for block in answer["content"]] == ["text"]
    assert answer["content"][0]["text"].startswith('{"')


async def test_input_tokens_leave_out_the_cache(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    usage = (await post(http, messages("say ab")))["usage"]
    assert usage["cache_read_input_tokens"] == CACHED
    assert usage["input_tokens"] + CACHED == len(engine.runs[0].input_ids)
    assert usage["output_tokens"] == 3


async def test_the_count_equals_the_usage_of_the_same_request(http: httpx.AsyncClient) -> None:
    body = messages("say ab", tools=[ANTHROPIC_LOOK], system=[{"type": "text", "text": "Be brief."}])
    usage = (await post(http, body))["usage"]
    del body["max_tokens"]
    counted = (await http.post(f"{PATH}/count_tokens", json=body)).json()
    assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


BLOCKS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "I will."},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"city": "A"}},
            {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {"city": "B"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
            {
                "type": "tool_result",
                "tool_use_id": "toolu_2",
                "is_error": True,
                "content": [{"type": "text", "text": "sun"}, {"type": "image", "source": {}}],
            },
            {"type": "text", "text": "and now?"},
        ],
    },
]
CALLS = [
    {"id": f"toolu_{n}", "type": "function", "function": {"name": "look", "arguments": f'{{"city": "{city}"}}'}}
    for n, city in ((1, "A"), (2, "B"))
]
SAME_AS_OPENAI: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": "I will.", "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
    {
        "role": "tool",
        "tool_call_id": "toolu_2",
        "content": "[this tool call failed]\nsun\n[an image was here; this model reads text only]",
    },
    {"role": "user", "content": "and now?"},
]


async def test_blocks_become_the_messages_that_openai_clients_send(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    billing = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=abc"}
    system = [billing, {"type": "text", "text": "Be brief."}]
    await post(http, {**messages(""), "messages": BLOCKS, "system": system, "tools": [ANTHROPIC_LOOK]})
    declared = {"name": "look", "parameters": LOOK["function"]["parameters"]}
    tools = [{"type": "function", "function": declared}]
    await http.post("/v1/chat/completions", json={**chat(""), "messages": SAME_AS_OPENAI, "tools": tools})
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


async def test_the_billing_header_does_not_change_the_prompt(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for hash_ in ("a", "b"):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cch={hash_}"}
        await post(http, messages("say ab", system=[billing, {"type": "text", "text": "S"}]))
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


@pytest.mark.parametrize("role", ["system", "ctx", "msg"])
async def test_harnesses_own_roles_are_system_messages(
    http: httpx.AsyncClient, engine: ScriptedEngine, role: str
) -> None:
    body = messages("say ab")
    body["messages"] = [{"role": role, "content": [{"type": "text", "text": "note"}]}, *user("say ab")]
    await post(http, body)
    await http.post(
        "/v1/chat/completions",
        json={**chat(""), "messages": [{"role": "system", "content": "note"}, *user("say ab")]},
    )
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


async def test_what_coding_agents_send_along_is_taken(http: httpx.AsyncClient) -> None:
    body = messages(
        "say ab",
        metadata={"user_id": "u"},
        thinking={"type": "adaptive"},
        context_management={"edits": []},
        output_config={"effort": "high"},
        tools=[{**ANTHROPIC_LOOK, "cache_control": {"type": "ephemeral"}, "defer_loading": True}],
    )
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b", "x-api-key": "dummy"}
    response = await http.post(f"{PATH}?beta=true", json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["request-id"]


@pytest.mark.parametrize(
    ("choice", "constrained_like"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
        ({"type": "none"}, "none"),
    ],
)
@pytest.mark.parametrize("parallel", [True, False])
async def test_tool_choices_mean_what_openais_do(
    http: httpx.AsyncClient, engine: ScriptedEngine, choice: Any, constrained_like: Any, parallel: bool
) -> None:
    text = 'call look {"city":"A"} ; look {"city":"B"}'
    await post(
        http,
        messages(text, tools=[ANTHROPIC_LOOK], tool_choice={**choice, "disable_parallel_tool_use": not parallel}),
    )
    tools = [{"type": "function", "function": {"name": "look", "parameters": LOOK["function"]["parameters"]}}]
    options = {"tools": tools, "tool_choice": constrained_like, "parallel_tool_calls": parallel}
    await http.post("/v1/chat/completions", json=chat(text, **options))
    ours, theirs = (run.sampling["structural_tag"] for run in engine.runs)
    assert ours == theirs


async def test_temperature_is_scaled_as_the_policy_says(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    await post(http, messages("say ab", temperature=0.5))
    assert engine.runs[0].sampling["temperature"] == pytest.approx(0.3)
    for beyond in (1.5, -1, 3, 1e30):
        error = (await post(http, messages("say ab", temperature=beyond), 400))["error"]
        assert error["message"] == "temperature: must be between 0 and 1"


@pytest.mark.parametrize("schema", [{}, {"input_schema": None}])
async def test_a_tool_without_a_schema_takes_no_arguments(http: httpx.AsyncClient, schema: dict[str, Any]) -> None:
    answer = await post(http, messages("call now {}", tools=[{"name": "now", **schema}]))
    assert answer["content"][0]["input"] == {}


async def test_an_output_format_constrains_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    form = {"type": "json_schema", "schema": {"type": "integer"}}
    await post(http, messages("say 1", output_config={"format": form}))
    await post(http, messages("say 1", output_format=form))
    assert all("structural_tag" in run.sampling for run in engine.runs)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"model": "claude-x"}, "not_found_error", "model"),
        ({"messages": []}, "invalid_request_error", "messages"),
        ({"surprise": 1}, "invalid_request_error", "surprise"),
        ({"tool_choice": {"type": "any"}}, "invalid_request_error", "tools"),
        ({"mcp_servers": [{}]}, "invalid_request_error", "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "invalid_request_error", "tools[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "invalid_request_error",
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "novelty"}]}]},
            "invalid_request_error",
            "messages[0].content[0].type",
        ),
        (
            {"messages": [*user("a"), {"role": "assistant", "content": [USED]}]},
            "invalid_request_error",
            "messages[1]: a message with tool calls can't be continued",
        ),
        (
            {
                "messages": [*user("a"), {"role": "assistant", "content": "b"}],
                "tools": [ANTHROPIC_LOOK],
                "tool_choice": {"type": "any"},
            },
            "invalid_request_error",
            "tool_choice",
        ),
        ({"messages": user("x" * CONTEXT)}, "invalid_request_error", "prompt is too long"),
    ],
)
async def test_what_is_wrong_is_refused_in_anthropics_envelope(
    http: httpx.AsyncClient, engine: ScriptedEngine, options: dict[str, Any], kind: str, words: str
) -> None:
    answer = await post(http, {**messages("say ab"), **options}, 404 if kind == "not_found_error" else 400)
    assert answer["type"] == "error"
    assert answer["error"]["type"] == kind
    assert words in answer["error"]["message"]
    assert answer["request_id"]
    assert engine.runs == []


async def test_max_tokens_has_to_be_given(http: httpx.AsyncClient) -> None:
    body = messages("say ab")
    del body["max_tokens"]
    assert "max_tokens" in (await post(http, body, 400))["error"]["message"]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("overloaded", 429, "rate_limit_error"),
        ("engine_unavailable", 503, "overloaded_error"),
        ("request_quarantined", 503, "overloaded_error"),
    ],
)
async def test_an_engine_that_refuses_says_when_to_come_back(
    http: httpx.AsyncClient, code: str, status: int, kind: str
) -> None:
    response = await http.post(PATH, json=messages(f"fail {code}", stream=True))
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind
    assert int(response.headers["retry-after"]) >= 1


async def test_an_error_in_mid_stream_is_an_error_event(http: httpx.AsyncClient) -> None:
    name, data = events(await http.post(PATH, json=messages("break engine_lost", stream=True)))[-1]
    assert name == "error"
    assert data["error"]["type"] == "overloaded_error"


async def test_unknown_paths_beside_messages_answer_in_the_same_envelope(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{PATH}/batches", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
