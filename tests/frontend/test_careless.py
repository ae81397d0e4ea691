"""What gateways and SDKs leave out or write as they like: the conversation goes on, the same in every dialect."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.frontend.asking import chat, messages, user
from tests.frontend.scripted import ScriptedEngine
from tests.frontend.test_agents import same, used

pytestmark = pytest.mark.anyio
PARTS = [{"type": "text", "text": "say a", "novelty": 1, "cache_control": {"type": "ephemeral"}}]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PARTS}]}, "messages[0]"),
        ("/v1/messages", {"messages": [{"role": "user", "content": PARTS}], "max_tokens": 9}, "messages[0]"),
        ("/v1/responses", {"input": [{"role": "user", "content": PARTS}]}, "input[0]"),
    ],
)
async def test_unknown_keys_of_parts_are_listed(http: httpx.AsyncClient, path: str, body: Any, place: str) -> None:
    answer = (await http.post(path, json={"model": "kimi_k2", **body})).json()
    assert answer["notices"] == [f"{place}.content[0].novelty: ignored"]


CALLED = {"type": "function_call", "call_id": "t1", "name": "look"}


@pytest.mark.parametrize(
    ("result", "text"), [({"a": 1}, '{"a": 1}'), ([{"a": 1}], '[{"a": 1}]'), (5, "5"), (None, ""), (..., "")]
)
async def test_a_result_of_any_json_goes_on_in_every_dialect(
    http: httpx.AsyncClient, engine: ScriptedEngine, result: Any, text: str
) -> None:
    said = {} if result is ... else {"content": result}
    output = {} if result is ... else {"output": result}
    expected = [{"role": "tool", "tool_call_id": "t1", "content": text}]
    items = [*user("look"), CALLED, {"type": "function_call_output", "call_id": "t1", **output}]
    await same(http, engine, "/v1/responses", {"model": "kimi_k2", "input": items}, expected)
    engine.runs.clear()
    await same(http, engine, "/v1/messages", {**messages(""), "messages": used(**said)}, expected)
    engine.runs.clear()
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = [*user("look"), {"role": "assistant", "content": None, "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "t1", **said})
    await same(http, engine, "/v1/chat/completions", {**chat(""), "messages": history}, expected)


@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": "{}"}])
async def test_a_past_call_without_an_input_has_no_arguments(
    http: httpx.AsyncClient, engine: ScriptedEngine, given: Any
) -> None:
    history = used(content="x")
    history[1]["content"] = [{"type": "tool_use", "id": "t1", "name": "look", **given}]
    expected = [{"role": "tool", "tool_call_id": "t1", "content": "x"}]
    await same(http, engine, "/v1/messages", {**messages(""), "messages": history}, expected)
    engine.runs.clear()
    arguments = {"arguments": given["input"]} if given else {}
    items = [*user("look"), {**CALLED, **arguments}, {"type": "function_call_output", "call_id": "t1", "output": "x"}]
    await same(http, engine, "/v1/responses", {"model": "kimi_k2", "input": items}, expected)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_cache_hint_beside_the_conversation_is_nothing(http: httpx.AsyncClient, path: str) -> None:
    body = {"input": user("a")} if path == "/v1/responses" else {"messages": user("a"), "max_tokens": 9}
    asked = {"model": "kimi_k2", "cache_control": {"type": "ephemeral"}, **body}
    assert (await http.post(path, json=asked)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_null_content_is_none(http: httpx.AsyncClient, path: str) -> None:
    history = [*user("a"), {"role": "assistant", "content": None}, *user("say b")]
    body = {"input": history} if path == "/v1/responses" else {"messages": history, "max_tokens": 9}
    assert (await http.post(path, json={"model": "kimi_k2", **body})).status_code == 200
