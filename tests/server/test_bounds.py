"""Whatever a client sends, by any way in: what the engine has no room for is refused by name and kills nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kimi_k2_serving.core.sampling import Room
from tests.frontend.running import over
from tests.server.running import Server

VOCABULARY = 4352
CONTEXT = 32768
USER = [{"role": "user", "content": "Hi"}]
# Sampling parameters by OpenAI's names, and the field that an error names.
OUT_OF_REACH: list[tuple[dict[str, Any], str]] = [
    ({"min_tokens": 1, "stop_token_ids": [VOCABULARY]}, "stop_token_ids"),
    ({"min_tokens": 1, "stop_token_ids": [VOCABULARY + 2]}, "stop_token_ids"),
    ({"stop_token_ids": [2**31 - 1]}, "stop_token_ids"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {str(VOCABULARY): 1}}, f"logit_bias.{VOCABULARY}"),
    ({"logit_bias": {"9999999999": 1}}, "logit_bias.9999999999"),
    ({"min_tokens": 4}, "min_tokens"),
    ({"ignore_eos": True, "repetition_penalty": 1e-40, "top_k": 50}, "repetition_penalty"),
]
IDS = [f"{field[:20]}-{number}" for number, (_, field) in enumerate(OUT_OF_REACH)]


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[str]:
    with over(server) as url:
        yield url


@pytest.fixture(autouse=True)
def the_engine_lives(server: Server) -> Iterator[None]:
    before = server.restarts()
    yield
    answer = httpx.post(server.generate(), json={"text_input": "Hi", "max_tokens": 1}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert server.restarts() == before


@pytest.mark.parametrize(("given", "field"), OUT_OF_REACH, ids=IDS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_the_openai_api_names_the_parameter(api: str, path: str, given: dict[str, Any], field: str) -> None:
    asked = {"messages": USER} if "chat" in path else {"prompt": "Hi"}
    answer = httpx.post(api + path, json={"model": "kimi_k2", "max_tokens": 3, **asked, **given}, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(("given", "field"), OUT_OF_REACH, ids=IDS)
@pytest.mark.parametrize("model", ["kimi_k2", "kimi_k2_engine"])
def test_triton_models_name_the_parameter(server: Server, model: str, given: dict[str, Any], field: str) -> None:
    body = {"text_input": "Hi", "max_tokens": 3, "sampling_parameters": json.dumps(given)}
    answer = httpx.post(server.generate(model), json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].removeprefix("in ensemble 'kimi_k2', ").split(": ")[1] == field


def test_the_last_ids_are_taken(server: Server) -> None:
    given = {"min_tokens": 1, "stop_token_ids": [0, VOCABULARY - 1], "logit_bias": {str(VOCABULARY - 1): 1}}
    body = {"text_input": "Hi", "max_tokens": 3, "sampling_parameters": json.dumps(given)}
    for model in ("kimi_k2", "kimi_k2_engine"):
        assert httpx.post(server.generate(model), json=body, timeout=60).status_code == 200


def test_every_way_in_knows_the_longest_prompt_that_the_engine_takes(server: Server, api: str) -> None:
    longest = Room.of_context(VOCABULARY, CONTEXT).prompt_tokens
    body: dict[str, Any] = {"input_ids": [5] * (longest + 1), "max_tokens": 1}
    said = [httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=60)]
    body = {"model": "kimi_k2", "prompt": [5] * (longest + 1), "max_tokens": 1}
    said.append(httpx.post(f"{api}/v1/completions", json=body, timeout=60))
    for answer in said:
        assert answer.status_code == 400
        assert f"the prompt has {longest + 1} tokens; this engine takes at most {longest}" in answer.text


@pytest.mark.parametrize("uid", ["HEALTH_CHECK_x", "HEALTH_CHECK", "", " ", "%s", "é", "a" * 64])
def test_no_uid_means_anything_to_sglang(server: Server, uid: str) -> None:
    body = {"text_input": "Hi", "max_tokens": 2, "request_context": f"{uid}\nrest"}
    answer = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=60)
    assert answer.status_code == (200 if uid.strip() else 400), answer.text


HOSTILE_GRAMMARS: dict[str, tuple[str, str]] = {
    "regex of many groups": ("regex", "(" * 50_000 + "a" + ")" * 50_000),
    "regex of many counts": ("regex", "(" * 20 + "a{1,50}" + "){1,50}" * 20),
    "regex with a look-ahead": ("regex", "(?=a)b"),
    "regex that does not parse": ("regex", "("),
    "regex with NUL": ("regex", "a\0b"),
    "ebnf of many groups": ("ebnf", "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000),
    "ebnf without end": ("ebnf", 'root ::= root root | "a"'),
    "ebnf without its rule": ("ebnf", "root ::= x"),
    "schema of many levels": ("json_schema", '{"items":' * 20_000 + "{}" + "}" * 20_000),
    "schema that is itself": ("json_schema", '{"$ref":"#"}'),
    "schema that is no schema": ("json_schema", "[]"),
    "schema that is no JSON": ("json_schema", '{"type":'),
    "tag of a token that is none": (
        "structural_tag",
        '{"type":"structural_tag","format":{"type":"token","token":999999999}}',
    ),
    "tag that is none": ("structural_tag", "{}"),
    "tag of a schema that is itself": (
        "structural_tag",
        '{"type":"structural_tag","format":{"type":"json_schema","json_schema":{"$ref":"#"}}}',
    ),
    "tag of a grammar without end": (
        "structural_tag",
        '{"type":"structural_tag","format":{"type":"grammar","grammar":"root ::= root"}}',
    ),
}


@pytest.mark.parametrize(("name", "text"), HOSTILE_GRAMMARS.values(), ids=[*HOSTILE_GRAMMARS])
def test_a_hostile_grammar_is_answered_and_kills_nothing(server: Server, name: str, text: str) -> None:
    given = json.dumps({name: text})
    body = {"text_input": "Hi", "max_tokens": 3, "sampling_parameters": given}
    answer = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=60)
    assert answer.status_code in (200, 400), answer.text
    assert "internal" not in answer.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text_input": "", "max_tokens": 2}, "missing_field: input_ids: give one of text_input and input_ids"),
        ({"text_input": "a", "input_ids": [1]}, "invalid_value: input_ids: give one of text_input and input_ids"),
        (
            {"text_input": "a", "sampling_parameters": r'{"a\u0000b":1}'},
            r"unknown_field: a\0b: not a sampling parameter; known: ebnf",
        ),
        (
            {"text_input": "a", "sampling_parameters": '{"regex":"a","ebnf":"b"}'},
            "invalid_value: ebnf: give one of json_schema, regex, ebnf, structural_tag",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_said_by_its_field(server: Server, body: dict[str, Any], said: str) -> None:
    answer = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said)


def test_a_grammar_that_no_text_satisfies_ends_its_own_request_alone(server: Server) -> None:
    given = json.dumps({"json_schema": '{"$ref":"#"}', "min_p": 0.5, "top_k": 50})
    body = {"text_input": "Hi", "max_tokens": 3, "sampling_parameters": given}
    answer = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith("invalid_value: json_schema: ")
