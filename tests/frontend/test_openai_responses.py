"""/v1/responses: items in, items out, events in order."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.frontend.asking import FLAT_LOOK, LOOK, chat, events
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio
PATH = "/v1/responses"
MIXED = (
    'raw before{tool_calls_section_begin}{tool_call_begin}functions.look:0{tool_call_argument_begin}{"city":"C"}'
    "{tool_call_end}{tool_calls_section_end}after"
)


def ask(given: Any, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "input": given, "tools": [FLAT_LOOK], **options}


async def test_text_and_calls_become_items_in_their_order(http: httpx.AsyncClient) -> None:
    answer = (await http.post(PATH, json=ask(MIXED))).json()
    assert [item["type"] for item in answer["output"]] == ["message", "function_call", "message"]
    assert answer["output"][0]["content"][0]["text"] == "before"
    assert json.loads(answer["output"][1]["arguments"]) == {"city": "C"}
    assert answer["output"][1]["call_id"] == "functions.look:0"
    assert (answer["status"], answer["store"]) == ("completed", False)
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + answer["usage"]["output_tokens"]


async def test_a_stream_ends_with_the_whole_response(http: httpx.AsyncClient) -> None:
    whole = (await http.post(PATH, json=ask(MIXED))).json()
    found = events(await http.post(PATH, json=ask(MIXED, stream=True)))
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    names = [name for name, _ in found]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    last = found[-1][1]["response"]

    def unnamed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "id": ""} for item in items]

    assert unnamed(last["output"]) == unnamed(whole["output"])
    deltas = "".join(data["delta"] for name, data in found if name == "response.function_call_arguments.delta")
    assert deltas == whole["output"][1]["arguments"]
    added = [data["output_index"] for name, data in found if name == "response.output_item.added"]
    done = [data["output_index"] for name, data in found if name == "response.output_item.done"]
    assert added == done == [0, 1, 2]


async def test_a_call_and_its_output_in_the_input_are_the_chats_own_messages(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I will."}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    await http.post(PATH, json=ask(items, instructions="Be brief."))
    calls = [{"id": id_, "type": "function", "function": {"name": "look", "arguments": "{}"}} for id_ in ("c1", "c2")]
    same = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "I will.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    ]
    await http.post("/v1/chat/completions", json={**chat(""), "messages": same, "tools": [LOOK]})
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


async def test_running_out_of_tokens_is_incomplete(http: httpx.AsyncClient) -> None:
    answer = (await http.post(PATH, json=ask("say abcdef", max_output_tokens=2))).json()
    assert answer["status"] == answer["output"][0]["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    streamed = events(await http.post(PATH, json=ask("say abcdef", max_output_tokens=2, stream=True)))
    assert streamed[-1][0] == "response.incomplete"


async def test_an_error_in_mid_stream_is_an_error_event(http: httpx.AsyncClient) -> None:
    name, data = events(await http.post(PATH, json=ask("break engine_lost", stream=True)))[-1]
    assert (name, data["code"]) == ("error", "engine_lost")


async def test_a_text_format_constrains_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}}
    await http.post(PATH, json={"model": "kimi_k2", "input": "say 1", "text": text})
    assert "structural_tag" in engine.runs[0].sampling


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_what_needs_a_store_or_other_senses_is_refused(
    http: httpx.AsyncClient, options: dict[str, Any], param: str
) -> None:
    response = await http.post(PATH, json={**ask("say ab"), **options})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
