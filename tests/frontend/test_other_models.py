"""Several engine models under one Triton: each request goes to the model that it names, and all are listed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kimi_k2_serving.chat.model import ChatModel, NoConstraints
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.other_models import other_configs, other_models
from kimi_k2_serving.frontend.service import Service
from tests.frontend.asking import chat, frames, messages
from tests.frontend.scripted import ScriptedEngine
from tests.support.enforcer import chat_model

pytestmark = pytest.mark.anyio
PLAIN = "toy_llama"


@pytest.fixture
def plain(small_vocabulary: Vocabulary) -> ScriptedEngine:
    return ScriptedEngine(small_vocabulary)


@pytest.fixture
def second(small_vocabulary: Vocabulary) -> ScriptedEngine:
    return ScriptedEngine(small_vocabulary)


@pytest.fixture
async def both(
    service: Service, small_vocabulary: Vocabulary, plain: ScriptedEngine, second: ScriptedEngine
) -> AsyncIterator[httpx.AsyncClient]:
    completions = ChatModel((PLAIN,), small_vocabulary, 512, {}, NoConstraints(), chats=False)
    service.others = (
        Service(completions, plain, metrics=service.metrics),
        Service(chat_model(small_vocabulary, names=("k2_two",)), second, metrics=service.metrics),
    )
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_every_model_is_listed_and_shown(both: httpx.AsyncClient) -> None:
    listed = (await both.get("/v1/models")).json()["data"]
    assert [each["id"] for each in listed] == ["kimi_k2", "kimi-k2-alias", PLAIN, "k2_two"]
    assert (await both.get(f"/v1/models/{PLAIN}")).json() == listed[2]
    assert listed[2]["max_model_len"] == 512
    anthropic = {"anthropic-version": "2023-06-01"}
    found = (await both.get("/v1/models", headers=anthropic)).json()
    assert [each["id"] for each in found["data"]] == [each["id"] for each in listed]
    assert (await both.get(f"/v1/models/{PLAIN}", headers=anthropic)).json()["id"] == PLAIN
    assert (await both.get("/v1/models/none")).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion_goes_to_the_model_that_it_names(
    both: httpx.AsyncClient, engine: ScriptedEngine, plain: ScriptedEngine, stream: bool
) -> None:
    response = await both.post("/v1/completions", json={"model": PLAIN, "prompt": "say ab", "stream": stream})
    choices = [each["choices"][0] for each in frames(response)[:-1]] if stream else response.json()["choices"]
    assert "".join(each["text"] for each in choices) == "ab"
    assert len(plain.runs) == 1
    assert engine.runs == []


async def test_a_chat_goes_to_the_k2_model_that_it_names(both: httpx.AsyncClient, second: ScriptedEngine) -> None:
    answer = (await both.post("/v1/chat/completions", json={**chat("say ab"), "model": "k2_two"})).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("k2_two", "ab")
    await both.post("/v1/messages", json={**messages("say ab"), "model": "k2_two"})
    assert len(second.runs) == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat("say ab")),
        ("/v1/messages", messages("say ab")),
        ("/v1/messages/count_tokens", messages("say ab")),
        ("/v1/responses", {"input": "say ab"}),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
async def test_a_chat_with_a_model_without_chats_is_refused(both: httpx.AsyncClient, path: str, body: Any) -> None:
    response = await both.post(path, json={**body, "model": PLAIN})
    assert response.status_code == 400
    assert "/v1/completions" in response.text


@pytest.mark.parametrize("body", ["{", '"x"', '{"model": 5}', '{"model": "none", "prompt": "a"}', "{}"])
async def test_a_body_that_names_no_model_is_refused_as_before(both: httpx.AsyncClient, body: str) -> None:
    response = await both.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 404)


def directory(repository: Path, name: str, config: str, engine: str = "") -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    if engine:
        (repository / name / "1" / "engine.yaml").write_text(engine)


def test_models_with_our_backend_are_found_and_broken_ones_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = 'name: "x"\n  backend : "sglang"  # ours\n'
    directory(tmp_path, "kimi_k2_engine", ours, "checkpoint: /a")
    directory(tmp_path, "a", ours, "checkpoint: ${HOME_OF_A}\nengine: {context_length: 9}")
    directory(tmp_path, "broken", ours, "checkpoint: [")
    directory(tmp_path, "unset", ours, "checkpoint: ${NOWHERE}")
    directory(tmp_path, "python_model", 'backend: "python"\n# backend: "sglang"\n')
    found = other_configs(tmp_path, {"HOME_OF_A": str(tmp_path / "a")}, taken=("kimi_k2", "kimi_k2_engine"))
    assert {name: config.server_args["context_length"] for name, config in found.items()} == {"a": 9}
    assert list(other_models(found)) == [], "its checkpoint has no config.json"
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in said] == ["broken", "unset", "a"]


def test_any_bpe_checkpoint_is_a_model_of_completions(tmp_path: Path, demo: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 128, "vocab_size": 5000}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "tokenizer.json").write_bytes((demo / "tokenizer.json").read_bytes())
    directory(tmp_path, PLAIN, 'backend: "sglang"\n', f"checkpoint: {checkpoint}\nengine: {{context_length: 64}}")
    (model,) = other_models(other_configs(tmp_path, {}, taken=()))
    assert (model.names, model.context_length, model.chats) == ((PLAIN,), 64, False)
    prompt = model.completion(model.vocabulary.encode("Once"), {})
    assert prompt.first_call is None
    assert prompt.sampling["max_new_tokens"] == 64 - len(prompt.ids)
