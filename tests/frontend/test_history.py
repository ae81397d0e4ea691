"""What a tool put into a history never ends the conversation: its numbers, halves of characters, parts and items."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.frontend.asking import ANTHROPIC_LOOK, FLAT_LOOK, LOOK, chat, messages, user
from tests.frontend.scripted import ScriptedEngine
from tests.frontend.test_agents import IMAGE, same, used

pytestmark = pytest.mark.anyio
CALLED = {"type": "function_call", "call_id": "t1", "name": "look"}
CALL = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
DEEP: Any = 1
for _ in range(100):
    DEEP = [DEEP]


def dialects(content: Any, *behind: Any) -> list[tuple[str, dict[str, Any]]]:
    """One conversation in every dialect: a call, its result, and the user's parts behind it."""
    said = [{"role": "user", "content": [*behind]}] if behind else []
    history = [*user("look"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    history += [{"role": "tool", "tool_call_id": "t1", "content": content}, *said]
    items = [*user("look"), CALLED, {"type": "function_call_output", "call_id": "t1", "output": content}, *said]
    return [
        ("/v1/chat/completions", {**chat(""), "messages": history}),
        ("/v1/messages", {**messages(""), "messages": [*used(content=content), *said]}),
        ("/v1/responses", {"model": "kimi_k2", "input": items}),
    ]


@pytest.mark.parametrize("text", ["result \ud83d", "\ude00 left"])
async def test_half_a_character_in_a_result_is_read_as_a_replacement_character(
    http: httpx.AsyncClient, engine: ScriptedEngine, text: str
) -> None:
    """Agents cut a text in the middle of a character."""
    read = text.replace("\ud83d", "\ufffd").replace("\ude00", "\ufffd")
    for path, body in dialects(text):
        engine.runs.clear()
        answer = await http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        ((_, expected), *_) = dialects(read)
        await http.post("/v1/chat/completions", json=expected)
        assert engine.runs[0].input_ids == engine.runs[1].input_ids


async def test_a_number_beyond_64_bits_in_a_result_is_read_as_javascript_does(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    expected = [{"role": "tool", "tool_call_id": "t1", "content": '{"n": 1e+25}'}]
    for path, body in dialects({"n": 10**25}):
        engine.runs.clear()
        await same(http, engine, path, body, expected)


async def test_a_number_beyond_64_bits_or_a_deep_schema_in_one_tool_fails_no_request(http: httpx.AsyncClient) -> None:
    count = {"type": "integer", "maximum": 18446744073709551616, "default": 10**25}
    deep: Any = {"type": "string"}
    for _ in range(50):
        deep = {"type": "object", "properties": {"a": deep}}
    for schema, relaxed in (({"type": "object", "properties": {"n": count}}, False), (deep, True)):
        function = {"name": "free", "parameters": schema}
        flat = {"type": "function", **function}
        anthropic = {"name": "free", "input_schema": schema}
        for path, body in (
            ("/v1/chat/completions", chat("say a", tools=[LOOK, {"type": "function", "function": function}])),
            ("/v1/messages", messages("say a", tools=[ANTHROPIC_LOOK, anthropic])),
            ("/v1/responses", {"model": "kimi_k2", "input": "say a", "tools": [FLAT_LOOK, flat]}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            assert ("unreadable" in answer.text) == relaxed


async def test_an_integer_beyond_64_bits_is_refused_by_the_range_of_its_field(http: httpx.AsyncClient) -> None:
    for path, body, words in (
        ("/v1/chat/completions", chat("a", max_tokens=2**64), "max_tokens: must be at least 1 and at most"),
        ("/v1/chat/completions", chat("a", seed=2**64), "seed: must be at least 0 and at most"),
        ("/v1/chat/completions", chat("a", n=2**64), "the limit (choices) is"),
        ("/v1/chat/completions", chat("a", logprobs=True, top_logprobs=2**64), "the limit (top_logprobs) is"),
        ("/v1/messages", {**messages("a"), "max_tokens": 2**64}, "max_tokens: must be at least 1 and at most"),
        ("/v1/completions", {"model": "kimi_k2", "prompt": [1, 2**64]}, "prompt: ids must be between 0 and"),
        ("/v1/completions", {"model": "kimi_k2", "prompt": [[2**64]]}, "prompt: ids must be between 0 and"),
        ("/detokenize", {"tokens": [2**64]}, "tokens[0]: must be between 0 and"),
    ):
        answer = await http.post(path, json=body)
        assert answer.status_code == 400
        assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "text", "text": None}, ""),
        ({"type": "text"}, ""),
        ({"type": "text", "text": 5}, "5"),
        (None, ""),
        (5, "\n5"),
        ({}, "\n{}"),
        ({"type": None}, '\n{"type": null}'),
        ({"type": "refusal", "refusal": None}, ""),
        ({"type": "tool_reference"}, ""),
    ],
)
async def test_a_part_without_a_text_ends_no_conversation_and_leaves_the_image_beside_it_alone(
    http: httpx.AsyncClient, engine: ScriptedEngine, part: Any, text: str
) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 999}}
    expected = [{"role": "tool", "tool_call_id": "t1", "content": f"a{text}\n{IMAGE}"}]
    for path, body in dialects([{"type": "text", "text": "a"}, part, image]):
        engine.runs.clear()
        await same(http, engine, path, body, expected)
    expected = [{"role": "tool", "tool_call_id": "t1", "content": "a"}, *user(text.strip())]
    for path, body in dialects("a", part):
        engine.runs.clear()
        await same(http, engine, path, body, expected)
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        said = [*user("a"), {"role": "assistant", "content": [part]}, *user("say b")]
        body = {"input": said} if path == "/v1/responses" else {"messages": said, "max_tokens": 9}
        answer = await http.post(path, json={"model": "kimi_k2", **body})
        assert answer.status_code == 200, answer.text


async def test_an_mcp_servers_result_is_read_like_its_parts(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    result = {"content": [{"type": "image", "data": "A" * 999}, {"type": "text", "text": "a"}], "isError": False}
    for path, body in dialects(result):
        engine.runs.clear()
        await same(http, engine, path, body, [{"role": "tool", "tool_call_id": "t1", "content": f"{IMAGE}\na"}])


async def test_a_history_may_be_deep(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for path, body in dialects({"a": DEEP}):
        engine.runs.clear()
        expected = [{"role": "tool", "tool_call_id": "t1", "content": json.dumps({"a": DEEP})}]
        await same(http, engine, path, body, expected)


PART = {"type": "text", "text": "a", "goo": 1}


@pytest.mark.parametrize(("content", "place"), [([PART], "[0]"), (PART, ""), ({"content": [PART]}, ".content[0]")])
async def test_unknown_keys_inside_a_result_are_listed(http: httpx.AsyncClient, content: Any, place: str) -> None:
    where = ("messages[2].content", "messages[2].content[0].content", "input[2].output")
    for (path, body), start in zip(dialects(content), where, strict=True):
        assert (await http.post(path, json=body)).json()["notices"] == [f"{start}{place}.goo: ignored"]


async def test_unknown_keys_of_the_assistants_texts_are_listed(http: httpx.AsyncClient) -> None:
    history = [*user("a"), {"role": "assistant", "content": [PART]}, *user("say b")]
    answer = await http.post("/v1/messages", json={**messages(""), "messages": history})
    assert answer.json()["notices"] == ["messages[1].content[0].goo: ignored"]


async def test_an_item_of_any_type_in_the_input_is_history(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    something = "[something was here; this model reads text only]"
    novelty = {"type": "novelty", "id": "n", "data": "A" * 999}
    told = {"type": "novelty", "content": [{"type": "output_text", "text": "a"}]}
    for item, text in ((novelty, something), (told, "a")):
        engine.runs.clear()
        await http.post("/v1/responses", json={"model": "kimi_k2", "input": [*user("b"), item, *user("c")]})
        history = [*user("b"), {"role": "assistant", "content": text}, *user("c")]
        await http.post("/v1/chat/completions", json={**chat(""), "messages": history})
        assert engine.runs[0].input_ids == engine.runs[1].input_ids


async def test_a_part_in_the_place_of_an_item_is_refused(http: httpx.AsyncClient) -> None:
    body = {"model": "kimi_k2", "input": [{"type": "input_text", "text": "a"}]}
    answer = await http.post("/v1/responses", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[0].type")


@pytest.mark.parametrize("kind", ["compaction", "compaction_summary"])
async def test_what_another_server_compacted_is_left_out_with_a_notice(http: httpx.AsyncClient, kind: str) -> None:
    items = [*user("a"), {"type": kind, "encrypted_content": "AA"}, *user("say b")]
    answer = await http.post("/v1/responses", json={"model": "kimi_k2", "input": items})
    (line,) = answer.json()["notices"]
    assert line.startswith("input[1]: left out: only the server that wrote it can read it")
