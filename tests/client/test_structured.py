"""Answers as pydantic models: the schema that is sent, and what is not a valid answer."""

from __future__ import annotations

import json
from typing import Literal

import pydantic
import pytest
from fake_triton import script
from peers import Peer

from kimi_k2_client import UnexpectedAnswer


class Weather(pydantic.BaseModel):
    city: str
    sky: Literal["clear", "cloudy"]

    @pydantic.field_validator("city")
    @classmethod
    def named(cls, city: str) -> str:
        if not city:
            raise ValueError("a city has a name")
        return city


def test_the_answer_is_an_instance_of_the_model_whose_schema_was_sent(peer: Peer) -> None:
    wanted = script([{"text_output": '{"city": "Bern", "sky": "clear"}', "finish_reason": "stop"}])
    assert peer.call(wanted, "chat_as", Weather, "weather?") == Weather(city="Bern", sky="clear")
    sent = wanted.asked[0]["response_format"]
    format_ = json.loads(sent[0] if isinstance(sent, list) else sent)
    assert format_["type"] == "json_schema"
    assert format_["json_schema"] == {"name": "Weather", "schema": Weather.model_json_schema(), "strict": True}


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ('{"city": "Be', "length", "raise max_tokens"),
        ('{"city": "", "sky": "clear"}', "stop", "not a valid Weather"),
        ("no JSON", "stop", "not a valid Weather"),
    ],
)
def test_an_answer_that_is_none_is_unexpected(peer: Peer, text: str, reason: str, says: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=says):
        peer.call(script([{"text_output": text, "finish_reason": reason}]), "chat_as", Weather, "weather?")
