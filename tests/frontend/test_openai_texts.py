"""/v1/completions, /v1/models, /tokenize and /detokenize."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.tokens import Vocabulary
from tests.frontend.asking import chat, frames, user
from tests.frontend.conftest import CONTEXT
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio
PATH = "/v1/completions"


def ask(prompt: Any, **options: Any) -> dict[str, Any]:
    return {"model": "kimi_k2", "prompt": prompt, **options}


async def test_every_form_of_prompt_is_taken(http: httpx.AsyncClient, small_vocabulary: Vocabulary) -> None:
    ids = small_vocabulary.encode("say ab")
    for prompt, expected in (
        ("say ab", ["ab"]),
        (ids, ["ab"]),
        (["say ab", "say cd"], ["ab", "cd"]),
        ([ids, small_vocabulary.encode("say cd")], ["ab", "cd"]),
    ):
        answer = (await http.post(PATH, json=ask(prompt))).json()
        assert [choice["text"] for choice in answer["choices"]] == expected


async def test_a_completion_prompt_is_plain_text_without_a_template(
    http: httpx.AsyncClient, engine: ScriptedEngine, small_vocabulary: Vocabulary
) -> None:
    await http.post(PATH, json=ask("<|im_end|>say"))
    assert engine.runs[0].input_ids == small_vocabulary.encode("<|im_end|>say")
    assert not set(engine.runs[0].input_ids) & small_vocabulary.control_ids


async def test_choices_number_prompts_first_and_then_their_samples(http: httpx.AsyncClient) -> None:
    answer = (await http.post(PATH, json=ask(["say a", "say b"], n=2))).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]


async def test_a_streamed_completion_is_the_whole_one(http: httpx.AsyncClient) -> None:
    body = ask("say one STOP two", stop="STOP", logprobs=1)
    whole = (await http.post(PATH, json=body)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = frames(await http.post(PATH, json={**body, **options}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"] == "one "
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    tokens = [token for chunk in chunks for token in chunk["choices"][0]["logprobs"]["tokens"]]
    assert tokens == whole["choices"][0]["logprobs"]["tokens"]
    assert usage["usage"] == whole["usage"]
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": [10**6]}, "prompt"),
        ({"echo": "yes"}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": ["a"] * 33}, "prompt"),
    ],
)
async def test_what_a_completion_can_not_do_is_refused(
    http: httpx.AsyncClient, options: dict[str, Any], param: str
) -> None:
    response = await http.post(PATH, json={**ask("say ab"), **options})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 0, 2])
async def test_an_echo_is_the_prompt_with_its_log_probabilities_before_the_answer(
    http: httpx.AsyncClient, small_vocabulary: Vocabulary, logprobs: int | None, stream: bool
) -> None:
    prompt = small_vocabulary.encode("say ab")
    response = await http.post(PATH, json=ask(prompt, echo=True, logprobs=logprobs, stream=stream))
    choices = [each["choices"][0] for each in frames(response)[:-1]] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "say abab"
    if logprobs is None:
        assert all(choice["logprobs"] is None for choice in choices)
        return
    found = {
        name: [each for choice in choices for each in choice["logprobs"][name]]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    assert "".join(found["tokens"][: len(prompt)]) == "say ab"
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert found["token_logprobs"][1 : len(prompt)] == [-1.5] * (len(prompt) - 1)
    assert all(len(top) == logprobs for top in found["top_logprobs"][1:])
    lengths = [len(token) for token in found["tokens"]]
    assert found["text_offset"] == [sum(lengths[:i]) for i in range(len(lengths))]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_without_an_answer_has_only_the_prompt(
    http: httpx.AsyncClient, small_vocabulary: Vocabulary, stream: bool
) -> None:
    body = ask("say ab", echo=True, logprobs=1, max_tokens=0, stream=stream)
    response = await http.post(PATH, json=body)
    choices = [each["choices"][0] for each in frames(response)[:-1]] if stream else response.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == "say ab"
    tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
    assert len(tokens) == len(small_vocabulary.encode("say ab"))
    assert choices[-1]["finish_reason"] == "length"


async def test_an_echo_of_one_token_has_no_log_probability(http: httpx.AsyncClient) -> None:
    body = ask([97], echo=True, logprobs=1, max_tokens=0)
    (choice,) = (await http.post(PATH, json=body)).json()["choices"]
    assert choice["logprobs"] == {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}


async def test_more_log_probabilities_of_a_prompt_than_the_limit_are_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(limits.PROMPT_LOGPROBS, value=5)
    monkeypatch.setattr("kimi_k2_serving.frontend.openai.completions.PROMPT_LOGPROBS", small)
    refused = await http.post(PATH, json=ask([97] * 3, echo=True, logprobs=1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "limit_exceeded")
    assert (await http.post(PATH, json=ask([97] * 3, logprobs=1))).status_code == 200


async def test_the_models_own_name_comes_first(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["kimi_k2", "kimi-k2-alias"]
    assert listed["data"][0]["max_model_len"] == CONTEXT
    assert (await http.get("/v1/models/kimi-k2-alias")).json() == listed["data"][1]
    missing = await http.get("/v1/models/nobody/has-this")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_alias_is_answered_under_its_own_name(http: httpx.AsyncClient) -> None:
    body = {**chat("say ab"), "model": "kimi-k2-alias"}
    assert (await http.post("/v1/chat/completions", json=body)).json()["model"] == "kimi-k2-alias"


async def test_tokens_of_a_chat_are_those_of_its_prompt(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    tokens = (await http.post("/tokenize", json={"messages": user("say ab")})).json()
    await http.post("/v1/chat/completions", json=chat("say ab"))
    assert tokens["tokens"] == list(engine.runs[0].input_ids)
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == CONTEXT


async def test_detokenize_is_the_way_back(http: httpx.AsyncClient) -> None:
    text = "the 漢 🏃 <|im_end|>"
    tokens = (await http.post("/tokenize", json={"prompt": text, "return_token_strs": True})).json()
    assert len(tokens["token_strs"]) == tokens["count"]
    assert (await http.post("/detokenize", json={"tokens": tokens["tokens"]})).json()["prompt"] == text


async def test_detokenize_names_control_tokens_or_hides_them(
    http: httpx.AsyncClient, small_vocabulary: Vocabulary
) -> None:
    ids = [97, small_vocabulary.control("<|im_end|>"), 98]
    assert (await http.post("/detokenize", json={"tokens": ids})).json()["text"] == "a<|im_end|>b"
    hidden = {"tokens": ids, "skip_special_tokens": True}
    assert (await http.post("/detokenize", json=hidden)).json()["text"] == "ab"


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": user("a")}, {"prompt": "a", "tools": []}])
async def test_tokenize_takes_a_text_or_a_chat(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await http.post("/tokenize", json=body)).status_code == 400


@pytest.mark.parametrize("tokens", [None, "x", [True], ["1"], [-1], [10**9]])
async def test_what_is_no_token_is_refused(http: httpx.AsyncClient, tokens: Any) -> None:
    assert (await http.post("/detokenize", json={"tokens": tokens})).status_code == 400
