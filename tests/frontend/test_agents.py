"""What coding agents send: nothing of a tool ends a conversation, and what is left out is said."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.frontend.asking import ANTHROPIC_LOOK, FLAT_LOOK, LOOK, chat, events, frames, messages, user
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio
IMAGE = "[an image was here; this model reads text only]"
DOCUMENT = "[a document was here; this model reads text only]"
FILE = "[a file was here; this model reads text only]"
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}}


def used(*blocks: Any, **result: Any) -> list[dict[str, Any]]:
    """A conversation whose last message has a result, and these blocks behind it."""
    return [
        *user("look"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", **result}, *blocks]},
    ]


async def same(http: httpx.AsyncClient, engine: ScriptedEngine, path: str, body: Any, history: list[Any]) -> None:
    """`body` has the prompt of this chat."""
    answer = await http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked = [*user("look"), {"role": "assistant", "content": "", "tool_calls": [call]}, *history]
    await http.post("/v1/chat/completions", json={**chat(""), "messages": asked})
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


@pytest.mark.parametrize(
    ("blocks", "result", "history"),
    [
        ([PDF], {"content": "PDF read"}, ["PDF read", DOCUMENT]),
        ([], {"content": [PDF, {"type": "text", "text": "a"}]}, [f"{DOCUMENT}\na"]),
        ([{"type": "text", "text": "see"}, {"type": "image", "source": {}}], {}, ["", f"see\n\n{IMAGE}"]),
        (
            [{"type": "search_result", "source": "u", "title": "T", "content": [{"type": "text", "text": "a"}]}],
            {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ["ab", "T\nu\na"],
        ),
        ([], {"content": "no such file", "is_error": True}, ["[this tool call failed]\nno such file"]),
    ],
)
async def test_anthropic_results_and_what_stands_beside_them(
    http: httpx.AsyncClient, engine: ScriptedEngine, blocks: list[Any], result: Any, history: list[str]
) -> None:
    same_as: list[Any] = [{"role": "tool", "tool_call_id": "t1", "content": history[0]}]
    same_as += [{"role": "user", "content": text} for text in history[1:]]
    body = {**messages(""), "messages": used(*blocks, **result)}
    await same(http, engine, "/v1/messages", body, same_as)


async def test_a_document_in_the_message_behind_a_result_is_the_tools(http: httpx.AsyncClient) -> None:
    history = [*used(content="read"), {"role": "user", "content": [PDF]}]
    assert (await http.post("/v1/messages", json={**messages(""), "messages": history})).status_code == 200
    history = [*used(content="read"), {"role": "assistant", "content": "ok"}, {"role": "user", "content": [PDF]}]
    refused = await http.post("/v1/messages", json={**messages(""), "messages": history})
    assert "messages[4].content[0].type" in refused.json()["error"]["message"]


async def test_function_outputs_of_any_content(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    output = [
        {"type": "input_text", "text": "a"},
        {"type": "input_text", "text": "b"},
        {"type": "input_image", "image_url": "data:"},
        {"type": "input_file", "file_id": "f"},
    ]
    items = [
        {"role": "user", "content": "look"},
        {"type": "function_call", "call_id": "t1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t1", "output": output},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]},
    ]
    history = [
        {"role": "tool", "tool_call_id": "t1", "content": f"ab\n{IMAGE}\n{FILE}"},
        {"role": "user", "content": IMAGE},
    ]
    await same(http, engine, "/v1/responses", {"model": "kimi_k2", "input": items}, history)


async def test_calls_of_other_tools_in_the_input_are_history(http: httpx.AsyncClient) -> None:
    items = [
        {"role": "user", "content": "look"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        {"type": "local_shell_call", "call_id": "s", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "s", "output": "a b"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "and now?"},
    ]
    answer = await http.post("/v1/responses", json={"model": "kimi_k2", "input": items})
    assert answer.status_code == 200, answer.text


NAMESPACE = {"type": "namespace", "name": "mcp__maps", "description": "d", "tools": [FLAT_LOOK]}


async def test_what_codex_sends_is_served_and_what_is_left_out_is_said(http: httpx.AsyncClient) -> None:
    tools = [
        FLAT_LOOK,
        NAMESPACE,
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "p"},
    ]
    body = {"model": "kimi_k2", "client_metadata": {"a": "b"}, "tools": tools}
    answer = await http.post("/v1/responses", json={**body, "input": 'call mcp__maps__look {"city":"A"}'})
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["output"]
    assert (item["name"], item["namespace"], item["arguments"]) == ("look", "mcp__maps", '{"city":"A"}')
    notices = answer.json()["notices"]
    assert [line.partition(":")[0] for line in notices] == ["tools[2]"]
    assert answer.headers["x-kimi-k2-notices"] == "; ".join(notices)
    history = [
        {"role": "user", "content": "go"},
        item,
        {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"},
    ]
    streamed = await http.post("/v1/responses", json={**body, "input": history, "stream": True})
    assert events(streamed)[-1][1]["response"]["notices"] == notices
    assert streamed.headers["x-kimi-k2-notices"] == "; ".join(notices)


async def test_a_namespace_shows_its_functions_under_its_name(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    await http.post("/v1/responses", json={"model": "kimi_k2", "input": "say a", "tools": [NAMESPACE]})
    named = {"type": "function", "function": {**LOOK["function"], "name": "mcp__maps__look"}}
    await http.post("/v1/chat/completions", json=chat("say a", tools=[named]))
    assert engine.runs[0].input_ids == engine.runs[1].input_ids


CARELESS = [
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": None},
    {"type": "object", "properties": None},
    {"type": "any"},
    {"type": "object", "properties": {"a": {"type": "string", "required": True}}},
    "object",
    [],
]


@pytest.mark.parametrize("schema", CARELESS)
async def test_a_careless_schema_makes_its_tool_free_form(http: httpx.AsyncClient, schema: Any) -> None:
    free = {"name": "free", "input_schema": schema}
    body = messages('call free {"x": 1} ; look {"city":"A"}', tools=[ANTHROPIC_LOOK, free])
    answer = (await http.post("/v1/messages", json=body)).json()
    assert answer["content"][0]["input"] == {"x": 1}
    (place,) = answer["enforcement"]["relaxed"]
    assert place.startswith("tools[1].input_schema")
    assert place.endswith(": unreadable")
    assert "invalid" not in answer["enforcement"]
    function = {"type": "function", "name": "free", "parameters": schema}
    whole = (await http.post("/v1/responses", json={"model": "kimi_k2", "input": "say a", "tools": [function]})).json()
    assert whole["enforcement"]["relaxed"][0].startswith("tools[0].parameters")
    strict = await http.post("/v1/messages", json={**body, "tools": [ANTHROPIC_LOOK, {**free, "strict": True}]})
    assert strict.status_code == 400
    assert "tools[1].input_schema" in strict.json()["error"]["message"]


@pytest.mark.parametrize(("length", "status"), [(65, 200), (128, 200), (129, 400)])
async def test_anthropics_names_are_as_long_as_anthropics(http: httpx.AsyncClient, length: int, status: int) -> None:
    name = "n" * length
    body = messages(f"call {name} {{}}", tools=[{"name": name, "input_schema": {"type": "object"}}])
    answer = await http.post("/v1/messages", json=body)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["content"][0]["name"] == name
    else:
        assert "tools[0].name" in answer.json()["error"]["message"]


async def test_anthropics_ids_are_in_its_alphabet_and_read_back(http: httpx.AsyncClient) -> None:
    tool = {"name": "a.b-c", "input_schema": {"type": "object"}}
    body = messages("call a.b-c {}", tools=[tool])
    body["tools"][0]["name"] = "a.b-c"
    (block,) = (await http.post("/v1/messages", json=body)).json()["content"]
    assert block["id"] == "functions_a_b-c_0"
    history = [
        *user("call a.b-c {}"),
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "x"}]},
        *user("call a.b-c {}"),
    ]
    answer = (await http.post("/v1/messages", json={**body, "messages": history})).json()
    assert answer["content"][0]["id"] == "functions_a_b-c_1"


ALLOWED = [
    ("/v1/chat/completions", {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [LOOK]}}),
    ("/v1/responses", {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]}),
]


@pytest.mark.parametrize(("path", "choice"), ALLOWED)
async def test_allowed_tools_may_be_called_and_all_are_shown(
    http: httpx.AsyncClient, engine: ScriptedEngine, path: str, choice: Any
) -> None:
    other = {**FLAT_LOOK, "name": "other"}
    flat = path == "/v1/responses"
    tools = (
        [FLAT_LOOK, other] if flat else [LOOK, {"type": "function", "function": {**LOOK["function"], "name": "other"}}]
    )
    asked = {"model": "kimi_k2", "input": "say a"} if flat else chat("say a")
    for options in ({"tool_choice": choice}, {}):
        answer = await http.post(path, json={**asked, "tools": tools, **options})
        assert answer.status_code == 200, answer.text
    held, free = engine.runs
    assert held.input_ids == free.input_ids
    assert "functions.other" not in held.sampling["structural_tag"]
    assert "functions.other" in free.sampling["structural_tag"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/messages", {"messages": [*user("a"), *used()[2:]]}, "messages[1].content[0].tool_use_id"),
        ("/v1/messages", {"system": "s", "messages": [*user("a"), *used()[2:]]}, "messages[1].content[0].tool_use_id"),
        (
            "/v1/messages",
            {"messages": used(), "tools": [{"name": "a b", "input_schema": {}}]},
            "tools[0].name",
        ),
        (
            "/v1/messages",
            {
                "messages": [
                    *user("a"),
                    {"role": "assistant", "content": [{**used()[1]["content"][0], "name": ""}]},
                    *user("b"),
                ]
            },
            "messages[1].content[0].name",
        ),
        (
            "/v1/messages",
            {"tools": [{"name": "f", "input_schema": {"type": "any"}, "strict": True}]},
            "tools[0].input_schema.type",
        ),
        (
            "/v1/responses",
            {
                "instructions": "i",
                "input": [
                    {"role": "user", "content": "a"},
                    {"type": "function_call_output", "call_id": "x", "output": ""},
                ],
            },
            "input[1].call_id",
        ),
        (
            "/v1/responses",
            {"input": "a", "tools": [{"type": "web_search"}, {"type": "function", "name": "a b"}]},
            "tools[1].name",
        ),
        (
            "/v1/responses",
            {
                "input": "a",
                "tools": [
                    {
                        **NAMESPACE,
                        "tools": [{"type": "function", "name": "f", "parameters": {"type": "any"}, "strict": True}],
                    }
                ],
            },
            "tools[0].tools[0].parameters.type",
        ),
        (
            "/v1/responses",
            {"input": "a", "text": {"format": {"type": "json_schema", "schema": {"type": "any"}}}},
            "text.format.schema.type",
        ),
    ],
)
async def test_errors_name_the_field_that_was_sent(http: httpx.AsyncClient, path: str, body: Any, field: str) -> None:
    given = messages("a") if path == "/v1/messages" else {"model": "kimi_k2"}
    answer = await http.post(path, json={**given, **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith(f"{field}: ")


async def test_unknown_keys_below_the_top_are_listed_or_refused(http: httpx.AsyncClient) -> None:
    body = messages("say a", tools=[{**ANTHROPIC_LOOK, "input_examples": [{"city": "A"}]}])
    body["messages"][0]["novelty"] = 1
    notices = (await http.post("/v1/messages", json=body)).json()["notices"]
    assert notices == ["messages[0].novelty: ignored", "tools[0].input_examples: ignored"]
    asked = chat("say a")
    asked["messages"][0]["novelty"] = 1
    chunks = frames(await http.post("/v1/chat/completions", json={**asked, "stream": True}))
    (last,) = [chunk for chunk in chunks if "notices" in chunk]
    assert last["notices"] == ["messages[0].novelty: ignored"]
    form = {"type": "json_schema", "json_schema": {"schema": {}, "novelty": 1}}
    refused = await http.post("/v1/chat/completions", json=chat("say a", response_format=form))
    assert refused.json()["error"]["param"] == "response_format.json_schema.novelty"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("say a", seed=1)),
        ("/v1/completions", {"model": "kimi_k2", "prompt": "a", "seed": 1}),
    ],
)
async def test_a_seed_without_effect_is_said(http: httpx.AsyncClient, path: str, body: Any) -> None:
    answer = await http.post(path, json=body)
    assert answer.json()["notices"][0].startswith("seed: has no effect")
    assert "notices" in (await http.post(path, json={**body, "stream": True})).text
    assert "notices" not in (await http.post(path, json={**body, "seed": None})).text


async def test_models_in_anthropics_dialect(http: httpx.AsyncClient) -> None:
    version = {"anthropic-version": "2023-06-01"}
    listed = (await http.get("/v1/models", headers=version)).json()
    assert [model["type"] for model in listed["data"]] == ["model", "model"]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("kimi_k2", "kimi-k2-alias", False)
    assert (await http.get("/v1/models/kimi_k2", headers=version)).json() == listed["data"][0]
    assert (await http.get("/v1/models/other", headers=version)).json()["type"] == "error"
    assert (await http.get("/v1/models")).json()["object"] == "list"


async def test_health_where_others_have_it_and_head_everywhere(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/ping", "/health/live", "/health/ready", "/v1/models", "/metrics", "/openapi.json"):
        got = await http.get(path)
        assert got.status_code == 200
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        if path != "/metrics":
            assert head.headers["content-length"] == got.headers["content-length"]


async def test_refusals_name_the_way_out(http: httpx.AsyncClient) -> None:
    for reference in ({"type": "item_reference", "id": "x"}, {"id": "x"}, {"type": None, "id": "x"}):
        asked = {"model": "kimi_k2", "input": [reference]}
        error = (await http.post("/v1/responses", json=asked)).json()["error"]
        assert error["param"] == "input[0].type"
        assert "send the items" in error["message"]
        assert "store: false" in error["message"]
    search = await http.post("/v1/chat/completions", json=chat("say a", web_search_options={}))
    assert search.json()["error"]["param"] == "web_search_options"
