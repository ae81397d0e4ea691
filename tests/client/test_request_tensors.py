"""A request is built of tensors that the server can't misread; what it would narrow in silence is refused here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_client.errors import InvalidRequest
from kimi_k2_client.request import Datatype, Request, chat_request, generate_body, generate_request

texts = st.characters(codec="utf-8")


def body(request: Request) -> dict[str, Any]:
    document = json.loads(generate_body(request))
    assert isinstance(document, dict)
    return document


def test_what_is_not_given_is_not_sent() -> None:
    assert set(body(chat_request("hi", model="m", stream=True))) == {"messages", "stream"}


def test_a_string_is_one_user_message() -> None:
    sent = body(chat_request("hi", model="m", stream=False))
    assert json.loads(sent["messages"]) == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(("stop", "sent"), [("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_stop_is_one_string_or_several(stop: Any, sent: list[str]) -> None:
    assert body(chat_request("hi", model="m", stream=False, stop=stop))["stop_words"] == sent


@pytest.mark.parametrize("stop", [None, []])
def test_no_stop_strings_are_no_tensor(stop: Any) -> None:
    assert "stop_words" not in body(chat_request("hi", model="m", stream=False, stop=stop))


def test_an_engine_request_asks_for_the_counts_and_leaves_the_prompt_out() -> None:
    sent = body(generate_request([1, 2], model="m", stream=False))
    assert sent == {
        "input_ids": [1, 2],
        "stream": False,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }


@given(st.lists(st.dictionaries(st.text(texts), st.text(texts) | st.integers() | st.none())))
def test_messages_arrive_as_they_were_given(messages: list[dict[str, Any]]) -> None:
    assert json.loads(body(chat_request(messages, model="m", stream=False))["messages"]) == messages


def test_half_a_character_in_a_tools_text_is_sent_escaped() -> None:
    messages = [{"role": "tool", "content": "é \ud83d"}]
    sent = body(chat_request(messages, model="m", stream=False))["messages"]
    assert sent.isascii()
    assert json.loads(sent) == messages


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"max_tokens": 2**31}, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, "invalid_type", "max_tokens"),
        ({"max_tokens": 1.5}, "invalid_type", "max_tokens"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"seed": 2**64}, "invalid_value", "seed"),
        ({"temperature": float("nan")}, "invalid_value", "temperature"),
        ({"temperature": 1e39}, "invalid_value", "temperature"),
        ({"temperature": 10**400}, "invalid_value", "temperature"),
        ({"top_p": "1"}, "invalid_type", "top_p"),
        ({"stop": ["a", 3]}, "invalid_type", "stop_words[1]"),
        ({"stop": "\ud800"}, "invalid_value", "stop_words[0]"),
        ({"sampling_parameters": {"top_k": float("inf")}}, "invalid_json", "sampling_parameters"),
        ({"tools": [object()]}, "invalid_json", "tools"),
        ({"parallel_tool_calls": 1}, "invalid_type", "parallel_tool_calls"),
    ],
)
def test_what_can_not_be_sent_faithfully_is_refused_by_name(options: dict[str, Any], code: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_request("hi", model="m", stream=False, **options)
    assert (caught.value.code, caught.value.field, caught.value.status) == (code, field, 400)


def test_ids_are_checked_one_by_one() -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate_request([1, 2**31], model="m", stream=False)
    assert caught.value.field == "input_ids[1]"


def test_numbers_have_the_type_of_their_tensor() -> None:
    request = chat_request("hi", model="m", stream=False, temperature=1, max_tokens=3)
    values = {tensor.name: (tensor.datatype, tensor.values) for tensor in request.tensors}
    assert values["temperature"] == (Datatype.FP32, (1.0,))
    assert isinstance(values["temperature"][1][0], float)
    assert values["max_tokens"] == (Datatype.INT32, (3,))


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        chat_request("hi", model="m", stream=False, top_q=1)
