"""Custom tools over /v1/responses: a function of one string for the model, plain text for the client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.frontend.openai.freeform import REPLACEMENT, FreeformInput
from tests.frontend.asking import FLAT_LOOK, chat, events
from tests.frontend.scripted import ScriptedEngine

PATH = "/v1/responses"
PATCH = '*** Begin Patch\n"a"\tü 😀 \\ *** End Patch'
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: PATCH"}
CUSTOM: dict[str, Any] = {"type": "custom", "name": "apply_patch", "description": "Applies it.", "format": GRAMMAR}
COMMAND = f"call apply_patch {json.dumps({'input': PATCH})}"


def ask(given: Any, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "input": given, "tools": [FLAT_LOOK, CUSTOM], **options}


@pytest.mark.anyio
async def test_a_custom_tool_is_called_with_plain_text_whole_and_streamed(http: httpx.AsyncClient) -> None:
    whole = (await http.post(PATH, json=ask(COMMAND))).json()
    (item,) = whole["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", PATCH)
    assert item["call_id"] == "functions.apply_patch:0"
    assert whole["notices"] == ["tools[1].format: is shown to the model but not enforced"]
    assert whole["tools"] == [FLAT_LOOK, CUSTOM]
    found = events(await http.post(PATH, json=ask(COMMAND, stream=True)))
    kind = "response.custom_tool_call_input"
    deltas = [data["delta"] for name, data in found if name == f"{kind}.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == PATCH
    assert [data["input"] for name, data in found if name == f"{kind}.done"] == [PATCH]
    (done,) = [data["item"] for name, data in found if name == "response.output_item.done"]
    assert {**done, "id": ""} == {**item, "id": ""}
    assert not any("function_call_arguments" in name for name, _ in found)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("form", "said"), [(None, []), ({"type": "text"}, []), ("x", ["left out"]), ({"type": "grammar"}, ["left out"])]
)
async def test_a_format_is_shown_or_said_to_be_left_out(http: httpx.AsyncClient, form: Any, said: list[str]) -> None:
    answer = (await http.post(PATH, json=ask("say a", tools=[{**CUSTOM, "format": form}]))).json()
    assert [line.split(": ")[1] for line in answer.get("notices", ())] == said


@pytest.mark.anyio
async def test_a_namespace_may_hold_custom_tools(http: httpx.AsyncClient) -> None:
    tools = [{"type": "namespace", "name": "files", "description": "", "tools": [FLAT_LOOK, CUSTOM]}]
    command = COMMAND.replace("apply_patch", "files__apply_patch")
    answer = (await http.post(PATH, json=ask(command, tools=tools))).json()
    (item,) = answer["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("custom_tool_call", "files", "apply_patch")
    assert item["input"] == PATCH
    assert [line.partition(":")[0] for line in answer["notices"]] == ["tools[0].tools[1].format"]
    history = [{"role": "user", "content": "a"}, item, {"type": "custom_tool_call_output", "call_id": item["call_id"]}]
    assert (await http.post(PATH, json=ask(history, tools=tools))).status_code == 200


@pytest.mark.anyio
async def test_the_model_is_shown_a_function_of_one_string_and_its_own_calls(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    (item,) = (await http.post(PATH, json=ask(COMMAND))).json()["output"]
    tag = engine.runs[0].sampling["structural_tag"]
    assert "functions.apply_patch:" in tag
    output = {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "done"}
    await http.post(PATH, json=ask([{"role": "user", "content": COMMAND}, item, output]))
    prompt = engine.text([i for i in engine.runs[1].input_ids if i])
    assert "start: PATCH" in prompt
    assert json.dumps({"input": PATCH}, ensure_ascii=False) in prompt


@pytest.mark.anyio
@pytest.mark.parametrize(
    "choice",
    [
        {"type": "custom", "name": "apply_patch"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "apply_patch"}]},
    ],
)
async def test_a_custom_tool_may_be_chosen(http: httpx.AsyncClient, engine: ScriptedEngine, choice: Any) -> None:
    assert (await http.post(PATH, json=ask("say a", tool_choice=choice))).status_code == 200
    tag = engine.runs[0].sampling["structural_tag"]
    assert ("functions.apply_patch:" in tag, "functions.look:" in tag) == (True, False)


@pytest.mark.anyio
async def test_a_hosted_tool_that_is_chosen_is_refused_with_the_way_out(http: httpx.AsyncClient) -> None:
    error = (await http.post(PATH, json=ask("say a", tool_choice={"type": "web_search"}))).json()["error"]
    assert error["param"] == "tool_choice.type"
    assert "name a function" in error["message"]


@pytest.mark.anyio
async def test_an_input_that_the_length_cut_short_is_what_there_is_of_it(http: httpx.AsyncClient) -> None:
    answer = (await http.post(PATH, json=ask(COMMAND, max_output_tokens=45))).json()
    assert answer["status"] == "incomplete"
    assert 0 < len(answer["output"][0]["input"]) < len(PATCH)
    assert PATCH.startswith(answer["output"][0]["input"])


@pytest.mark.anyio
async def test_another_servers_custom_calls_are_read_in_chat(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "apply_patch", "input": "x"}}
    same = {"id": "c", "type": "function", "function": {"name": "apply_patch", "arguments": '{"input": "x"}'}}
    for each in (call, same):
        history = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [each]}]
        history.append({"role": "tool", "tool_call_id": "c", "content": "done"})
        answer = await http.post("/v1/chat/completions", json={**chat(""), "messages": history})
        assert answer.status_code == 200, answer.text
        assert "notices" not in answer.json()
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


@given(st.text(), st.booleans(), st.data())
def test_the_text_is_the_same_however_its_json_is_written_and_cut(text: str, plain: bool, data: st.DataObject) -> None:
    written = json.dumps({"input": text}, ensure_ascii=not plain)
    reader, found = FreeformInput(), ""
    while written:
        size = data.draw(st.integers(1, len(written)))
        found += reader.feed(written[:size])
        written = written[size:]
    assert found == text


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (r"\ud83d", REPLACEMENT),
        (r"\ud83dx", f"{REPLACEMENT}x"),
        (r"\ud83d\n", f"{REPLACEMENT}\n"),
        (r"\ud83d\ud83d\ude00", f"{REPLACEMENT}😀"),
        (r"\ude00", REPLACEMENT),
        (r"\u12x4", REPLACEMENT),
        (r"\/", "/"),
    ],
)
def test_half_a_character_is_none(inside: str, text: str) -> None:
    assert FreeformInput().feed(f'{{ "input" : "{inside}" }}') == text
