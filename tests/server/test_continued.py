"""A request that begins the answer: the real engine goes on from there, and its grammar does, too."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from kimi_k2_client import Client
from kimi_k2_client.errors import InvalidRequest
from tests.server.running import Server
from tests.server.test_chat import chat_body, put_together, streamed, whole

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Prague"]}, "n": {"type": "integer", "minimum": 10, "maximum": 99}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
WANTED = json.dumps({"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}})


def begun(text: str) -> str:
    return json.dumps([{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text, "partial": True}])


@pytest.mark.parametrize("prefix", ['{"city": "Pr', '{"city": "Paris", "n": 4', "{", '{"city":'])
def test_the_grammar_goes_on_where_the_beginning_ends(server: Server, prefix: str) -> None:
    body: dict[str, Any] = {"messages": begun(prefix), "response_format": WANTED, "max_tokens": 200}
    answer = whole(server, body)
    assert answer["finish_reason"] == "stop"
    found = json.loads(prefix + answer["text_output"])
    assert found["city"] in PLACE["properties"]["city"]["enum"]  # type: ignore[index]
    content, _, _ = put_together(streamed(server, body))
    assert set(json.loads(prefix + content)) == {"city", "n"}


def test_a_beginning_that_no_answer_has_is_refused_and_says_so(server: Server) -> None:
    body = {"messages": begun("Sure! "), "response_format": WANTED}
    refused = httpx.post(server.generate(), json=body, timeout=60)
    assert refused.status_code == 400
    assert "messages: an answer in this response_format can't begin with" in refused.json()["error"]


def test_a_free_answer_continues_the_prompt_itself(server: Server) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "One two"}]
    with Client(server.url) as client:
        answer = client.chat(messages, continue_final_message=True, max_tokens=8, temperature=0.0)
        again = whole(
            server, {**chat_body(max_tokens=8, temperature=0.0), "messages": begun("One two").replace("Where?", "Hi")}
        )
        assert answer.content == again["text_output"]
        with pytest.raises(InvalidRequest):
            client.chat("Hi", continue_final_message=True)
