"""An answer that the request has begun: the engine goes on inside the message, and only new text comes back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.frontend.asking import LOOK, chat, messages, put_together, user
from tests.frontend.asking import frames as frames_of
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio
BEGUN = {"role": "assistant", "content": "Once"}
TAIL = "<|im_assistant|>assistant<|im_middle|>Once"


def prompt(engine: ScriptedEngine) -> str:
    """What the engine got, with control tokens by their names."""
    names = {token: name for name, token in engine._vocabulary.controls.items()}
    return "".join(names.get(token) or engine.text([token]) for token in engine.runs[-1].input_ids)


@pytest.mark.parametrize(
    ("last", "options"),
    [
        ({**BEGUN, "partial": True}, {}),
        ({**BEGUN, "prefix": True}, {}),
        (BEGUN, {"continue_final_message": True}),
        (BEGUN, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_openai_s_answer_has_only_what_follows(
    http: httpx.AsyncClient, engine: ScriptedEngine, last: Any, options: dict[str, Any], stream: bool
) -> None:
    body = {**chat("say ab", stream=stream, tools=[LOOK], **options), "messages": [*user("say ab"), last]}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    text = put_together(frames_of(response))["content"] if stream else None
    assert prompt(engine).endswith(TAIL)
    assert (text if stream else response.json()["choices"][0]["message"]["content"]) == "ab"


async def test_anthropic_s_last_message_from_the_assistant_is_continued(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    body = {**messages("say ab"), "messages": [*user("say ab"), {"role": "assistant", "content": "Once"}]}
    answer = (await http.post("/v1/messages", json=body)).json()
    assert answer["content"] == [{"type": "text", "text": "ab"}]
    assert prompt(engine).endswith(TAIL)
    counted = (await http.post("/v1/messages/count_tokens", json=body)).json()["input_tokens"]
    assert counted == len(engine.runs[-1].input_ids)


async def test_the_rendered_prompt_ends_there_too(http: httpx.AsyncClient) -> None:
    body = {**chat(""), "messages": [*user("a"), {**BEGUN, "partial": True}]}
    found = (await http.post("/v1/chat/completions/render", json=body)).json()
    assert found["prompt"].endswith(TAIL)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"continue_final_message": True}, "messages[0]"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
    ],
)
async def test_what_can_t_be_continued_is_refused_by_name(
    http: httpx.AsyncClient, options: dict[str, Any], field: str
) -> None:
    response = await http.post("/v1/chat/completions", json=chat("say ab", **options))
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
