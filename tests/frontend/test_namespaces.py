"""Namespaces of /v1/responses: any two names join to one of the prompt, and no two tools are called the same."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.frontend.asking import FLAT_LOOK, LOOK, chat, user
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio


def ask(given: Any, *tools: Any, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "input": given, "tools": [*tools], **options}


def namespace(name: str, *functions: str) -> dict[str, Any]:
    tools = [{**FLAT_LOOK, "name": function} for function in functions]
    return {"type": "namespace", "name": name, "description": "d", "tools": tools}


@pytest.mark.parametrize("name", ["s" * 64, "s" * 63 + "_"])
async def test_two_names_of_the_longest_length_make_one(http: httpx.AsyncClient, name: str) -> None:
    full = f"{name}{'f' * 64}" if name.endswith("_") else f"{name}__{'f' * 64}"
    answer = await http.post("/v1/responses", json=ask(f'call {full} {{"city":"A"}}', namespace(name, "f" * 64)))
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["output"]
    assert (item["name"], item["namespace"]) == ("f" * 64, name)


async def test_names_that_are_too_long_together_are_refused_as_such(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/responses", json=ask("a", namespace("s" * 64, "f", "f" * 65)))
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "tools[0].tools[1].name")
    assert "must be at most 130 characters together with the name of its namespace" in error["message"]


@pytest.mark.parametrize("first", [True, False])
async def test_a_function_called_like_a_namespaces_keeps_its_name_and_both_may_be_called(
    http: httpx.AsyncClient, engine: ScriptedEngine, first: bool
) -> None:
    flat = {**FLAT_LOOK, "name": "a__shell"}
    tools = [namespace("a", "shell"), flat, {"type": "custom", "name": "a__shell_2"}]
    tools = tools[::-1] if first else tools
    text = 'call a__shell {"city":"A"} ; a__shell_3 {"city":"B"}'
    answer = await http.post("/v1/responses", json=ask(text, *tools))
    assert answer.status_code == 200, answer.text
    plain, inside = answer.json()["output"]
    assert (plain["name"], plain.get("namespace")) == ("a__shell", None)
    assert (inside["name"], inside["namespace"]) == ("shell", "a")
    history = [*user(text), plain, inside]
    history += [{"type": "function_call_output", "call_id": each["call_id"], "output": "x"} for each in (plain, inside)]
    chosen = {"type": "function", "name": "shell", "namespace": "a"}
    engine.runs.clear()
    answer = await http.post("/v1/responses", json=ask([*history, *user("a")], *tools, tool_choice=chosen))
    assert answer.status_code == 200, answer.text
    tag = engine.runs[0].sampling["structural_tag"]
    assert "functions.a__shell_3:" in tag
    assert "functions.a__shell:" not in tag


async def test_namespaces_whose_names_join_alike_are_told_apart(http: httpx.AsyncClient) -> None:
    tools = [namespace("a", "b__c"), namespace("a__b", "c"), namespace("s" * 62, "f" * 64)]
    tools += [namespace("s" * 62 + "__", "f" * 64)]
    unique = f"{'s' * 62}__{'f' * 64}_2"
    text = f'call a__b__c {{"city":"A"}} ; a__b__c_2 {{"city":"B"}} ; {unique} {{"city":"C"}}'
    answer = await http.post("/v1/responses", json=ask(text, *tools))
    assert answer.status_code == 200, answer.text
    found = [(item["namespace"], item["name"]) for item in answer.json()["output"]]
    assert found == [("a", "b__c"), ("a__b", "c"), ("s" * 62 + "__", "f" * 64)]


async def test_one_function_declared_twice_is_refused(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/responses", json=ask("a", namespace("a", "f"), namespace("a", "f")))
    assert refused.json()["error"]["param"] == "tools[1].tools[0].name"


async def test_allowing_only_tools_that_run_elsewhere_allows_no_call(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    elsewhere = {"type": "web_search"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [elsewhere]}
    answer = await http.post("/v1/responses", json=ask("a", FLAT_LOOK, elsewhere, tool_choice=choice))
    assert answer.status_code == 200, answer.text
    assert [line.partition(":")[0] for line in answer.json()["notices"]] == ["tools[1]", "tool_choice.tools[0]"]
    await http.post("/v1/chat/completions", json=chat("a", tools=[LOOK], tool_choice="none"))
    ours, theirs = engine.runs
    assert ours.input_ids == theirs.input_ids
    assert ours.sampling["structural_tag"] == theirs.sampling["structural_tag"]
    assert (await http.post("/v1/responses", json=ask("a", elsewhere, tool_choice=choice))).status_code == 200
    for tools, mode in (([], "auto"), ([elsewhere], "required")):
        refused = await http.post(
            "/v1/responses", json=ask("a", FLAT_LOOK, tool_choice={**choice, "mode": mode, "tools": tools})
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice.tools")
