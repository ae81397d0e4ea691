"""What no grammar holds is reported wherever an answer comes from; what is too much is refused, and holds up nobody."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from kimi_k2_client import Client
from kimi_k2_serving.core.messages import FormatKind, ResponseFormat, Tool
from kimi_k2_serving.json_schema.validate import validate, validate_answer
from tests.frontend.running import over
from tests.server.running import ROOT, Server
from tests.server.test_chat import WEATHER, chat_body, over_grpc, put_together, streamed, whole

# A count of undeclared names, and that many texts are all different, is more than a grammar holds.
LOOSE: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 4}},
    "required": ["x"],
    "additionalProperties": {"type": "integer"},
    "minProperties": 30,
}
# An automaton for each: many seconds.
HUGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        f"p{i}": {"type": "string", "pattern": f"^(?:[a-z0-9]+{i}){{1,700}}[A-Z]{{0,900}}$"} for i in range(20)
    },
}

# Its rules alone take many seconds, whatever is given up.
ENDLESS: dict[str, Any] = {
    "allOf": [{"oneOf": [{"properties": {f"p{i}_{j}": {"type": "string"}}} for j in range(12)]} for i in range(30)]
}


def function(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [WEATHER, function("loose", LOOSE)]
CHOICE = {"type": "function", "function": {"name": "loose"}}


def loose_body(**more: Any) -> dict[str, Any]:
    return chat_body(tools=json.dumps(TOOLS), tool_choice=json.dumps(CHOICE), max_tokens=2000, **more)


def check(report: dict[str, Any], calls: list[str]) -> None:
    """The report is what the validator says of these arguments."""
    assert report["relaxed"]
    assert all(place.startswith("tools[1].") for place in report["relaxed"])
    declared = Tool("loose", {}, LOOSE)
    found = [(index, validate(arguments, declared)) for index, arguments in enumerate(calls)]
    expected = [{"index": index, "problems": problems} for index, problems in found if problems]
    assert report.get("invalid", []) == expected
    assert "invalid_content" not in report


def test_generate_reports_what_was_relaxed(server: Server) -> None:
    answer = whole(server, loose_body())
    assert answer["finish_reason"] == "tool_calls"
    check(
        json.loads(answer["enforcement"]), [each["function"]["arguments"] for each in json.loads(answer["tool_calls"])]
    )


def test_a_stream_reports_once_and_last_over_http_and_grpc(server: Server) -> None:
    for parts in (streamed(server, loose_body()), over_grpc(server, loose_body())):
        assert ["enforcement" in part for part in parts] == [False] * (len(parts) - 1) + [True]
        _, calls, finish = put_together(parts)
        assert finish == "tool_calls"
        check(json.loads(parts[-1]["enforcement"]), [each["arguments"] for each in calls])


def test_at_temperature_zero_the_stream_s_report_is_the_whole_answer_s(server: Server) -> None:
    body = loose_body(temperature=0.0)
    whole(server, body)
    expected = json.loads(whole(server, body)["enforcement"])
    assert json.loads(streamed(server, body)[-1]["enforcement"]) == expected
    assert json.loads(over_grpc(server, body)[-1]["enforcement"]) == expected


def test_content_is_reported_too(server: Server) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "loose", "schema": LOOSE}}
    answer = whole(server, chat_body(response_format=json.dumps(wanted), max_tokens=2000))
    assert answer["finish_reason"] == "stop"
    report = json.loads(answer["enforcement"])
    assert report["relaxed"]
    assert all(place.startswith("response_format.json_schema.schema") for place in report["relaxed"])
    problems = validate_answer(answer["text_output"], ResponseFormat(FormatKind.JSON_SCHEMA, LOOSE))
    assert report.get("invalid_content", []) == problems


def test_nothing_is_reported_where_everything_was_held(server: Server) -> None:
    body = chat_body(tools=json.dumps([WEATHER]), tool_choice="required", max_tokens=2000)
    assert "enforcement" not in whole(server, body)
    assert not any("enforcement" in part for part in streamed(server, body))
    assert "enforcement" not in whole(server, chat_body(max_tokens=4))


def test_what_had_no_effect_is_said_once_and_last_by_every_way_in(server: Server) -> None:
    body = {"messages": json.dumps([{"role": "user", "content": "Hi", "novelty": 1}]), "max_tokens": 4}
    body["sampling_parameters"] = json.dumps({"seed": 7})
    for parts in ([whole(server, body)], streamed(server, body), over_grpc(server, body)):
        assert ["notices" in part for part in parts] == [False] * (len(parts) - 1) + [True]
        seed, novelty = json.loads(parts[-1]["notices"])
        assert seed.startswith("seed: has no effect")
        assert novelty == "messages[0].novelty: ignored"
    assert "notices" not in whole(server, chat_body(max_tokens=4))


def test_our_client_reads_the_report(server: Server) -> None:
    with Client(f"grpc://127.0.0.1:{server.grpc}") as client:
        answer = client.chat("Hi", tools=TOOLS, tool_choice=CHOICE, max_tokens=2000)
        assert answer.enforcement is not None
        assert answer.enforcement["relaxed"]
        assert client.chat("Hi", max_tokens=4).enforcement is None


def test_what_was_relaxed_is_counted(server: Server) -> None:
    whole(server, loose_body())
    lines = httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=10).text.splitlines()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("kimi_k2:")}
    assert values['kimi_k2:relaxed_requests{model="kimi_k2_postprocess"}'] >= 1
    assert values['kimi_k2:inspected{kind="call",model="kimi_k2_postprocess"}'] >= 1


def test_a_schema_that_is_too_much_is_a_400_that_names_it_and_holds_up_nobody(server: Server) -> None:
    whole(server, chat_body(tools=json.dumps([WEATHER]), max_tokens=4))
    tools = json.dumps([WEATHER, insisting("huge", HUGE), function("other", {"type": "object"})])
    refusals: list[httpx.Response] = []

    def ask() -> None:
        refusals.append(httpx.post(server.generate(), json=chat_body(tools=tools, max_tokens=4), timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    # What is known, what needs no grammar, and what is new and small.
    new = function("new", {"type": "object", "properties": {"n": {"type": "integer"}}})
    for declared in ([WEATHER], [], [new]):
        whole(server, chat_body(tools=json.dumps(declared), max_tokens=4))
        assert asking.is_alive(), refusals[0].text
    asking.join()
    (refusal,) = refusals
    assert refusal.status_code == 400
    assert (
        refusal.json()["error"]
        .removeprefix("in ensemble 'kimi_k2', ")
        .startswith("invalid_schema: tools[1].function.parameters: takes too long")
    )
    began = time.monotonic()
    assert httpx.post(server.generate(), json=chat_body(tools=tools), timeout=60).status_code == 400
    assert time.monotonic() - began < 2


def test_a_schema_that_is_given_up_is_served_and_reported(server: Server) -> None:
    """Beside one that is held; nobody insists on either."""
    body = chat_body(tools=json.dumps([WEATHER, function("huge", HUGE)]), tool_choice="required", max_tokens=200)
    answer = whole(server, body)
    assert answer["finish_reason"] in ("tool_calls", "length")
    relaxed = json.loads(answer["enforcement"])["relaxed"]
    # On a machine that is so busy that all the time of the clock is gone first, the other is given up with it.
    assert any(place.startswith("tools[1].function.parameters") for place in relaxed)


def test_a_format_that_is_too_much_is_given_up_and_reported_or_refused_where_it_says_strict(server: Server) -> None:
    wanted: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "huge", "schema": ENDLESS}}
    body = chat_body(response_format=json.dumps(wanted), max_tokens=50)
    relaxed = json.loads(whole(server, body)["enforcement"])["relaxed"]
    assert relaxed == ["response_format.json_schema.schema: schema"]
    wanted["json_schema"]["strict"] = True
    refusal = httpx.post(server.generate(), json=chat_body(response_format=json.dumps(wanted)), timeout=60)
    assert refusal.status_code == 400
    assert "invalid_schema: response_format.json_schema.schema: takes too long" in refusal.json()["error"]


def insisting(name: str, schema: Any) -> Any:
    tool: Any = function(name, schema)
    return {**tool, "function": {**tool["function"], "strict": True}}


def test_what_is_the_engine_s_alone_reaches_it_through_the_first_step(server: Server) -> None:
    body = chat_body(timeout_ms=200, max_tokens=20_000, ignore_eos=True, request_priority=5)
    answer = httpx.post(server.generate(), json=body, timeout=60)
    assert "deadline_exceeded: " in answer.json()["error"]
    refused = httpx.post(server.generate(), json=chat_body(request_priority=101), timeout=60)
    assert "invalid_value: request_priority: " in refused.json()["error"]


def test_the_grammar_s_worker_is_there_before_the_first_request(server: Server) -> None:
    (worker,) = [each for each in server.processes() if is_worker(each) and len(each.cmdline()) > 3]
    assert worker.cmdline()[-1] == server.ready["checkpoint"]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "kimi_k2_serving.enforcer.worker_main" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[str]:
    """The frontend in front of the same engine."""
    with over(server, "--model-repository", str(ROOT / "model_repository")) as url:
        yield url


def test_openai_s_documents_and_streams_report(api: str) -> None:
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000}
    body |= {"tools": TOOLS, "tool_choice": CHOICE}
    document = httpx.post(f"{api}/v1/chat/completions", json=body, timeout=120).raise_for_status().json()
    (choice,) = document["choices"]
    check(document["enforcement"], [each["function"]["arguments"] for each in choice["message"]["tool_calls"]])
    text = httpx.post(f"{api}/v1/chat/completions", json={**body, "stream": True}, timeout=120).raise_for_status().text
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    *before, last = chunks
    assert not any("enforcement" in chunk for chunk in before)
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    deltas = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    check(last["enforcement"], ["".join(part["function"].get("arguments", "") for part in deltas)])


def test_anthropic_s_documents_and_streams_report(api: str) -> None:
    body: dict[str, Any] = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000}
    weather = WEATHER["function"]
    assert isinstance(weather, dict)
    body["tools"] = [
        {"name": "get_weather", "input_schema": weather["parameters"]},
        {"name": "loose", "input_schema": LOOSE},
    ]
    body["tool_choice"] = {"type": "tool", "name": "loose"}
    document = httpx.post(f"{api}/v1/messages", json=body, timeout=120).raise_for_status().json()
    assert document["stop_reason"] == "tool_use"
    check(document["enforcement"], [json.dumps(block["input"]) for block in document["content"]])
    text = httpx.post(f"{api}/v1/messages", json={**body, "stream": True}, timeout=120).raise_for_status().text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    (closing,) = [event for event in events if event["type"] == "message_delta"]
    pieces = [event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"]
    check(closing["enforcement"], ["".join(pieces)])


def test_the_apis_refuse_what_is_too_much_by_name_and_hold_up_nobody(api: str) -> None:
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    refusals: list[httpx.Response] = []

    def ask() -> None:
        tools = [WEATHER, insisting("huge", HUGE)]
        refusals.append(httpx.post(f"{api}/v1/chat/completions", json={**body, "tools": tools}, timeout=60))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asking in askers:
        asking.start()
    time.sleep(0.3)
    assert httpx.post(f"{api}/v1/chat/completions", json=body, timeout=60).status_code == 200
    assert all(asking.is_alive() for asking in askers)
    for asking in askers:
        asking.join()
    for refusal in refusals:
        assert refusal.status_code == 400
        error = refusal.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_schema", "tools[1].function.parameters")
