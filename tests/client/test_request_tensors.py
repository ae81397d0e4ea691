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


def test_every_sampling_option_has_its_tensor() -> None:
    sent = body(
        chat_request(
            "hi",
            model="m",
            stream=False,
            min_tokens=1,
            top_k=5,
            min_p=0.1,
            frequency_penalty=0.5,
            presence_penalty=-0.5,
            repetition_penalty=1.5,
            stop_token_ids=[7, 8],
            ignore_eos=True,
            priority=3,
            deadline=1.5,
            logit_bias={9: -100},
            sampling_parameters={"top_k": 6},
        )
    )
    assert json.loads(sent.pop("sampling_parameters")) == {"top_k": 6, "logit_bias": {"9": -100}}
    sent.pop("messages")
    assert sent == {
        "stream": False,
        "min_tokens": 1,
        "top_k": 5,
        "min_p": 0.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.5,
        "stop_token_ids": [7, 8],
        "ignore_eos": True,
        "request_priority": 3,
        "timeout_ms": 1500,
    }


def test_an_option_that_does_not_exist_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"no such option: temprature; known: .*temperature"):
        chat_request("hi", model="m", stream=False, temprature=1)


@pytest.mark.parametrize(("deadline", "sent"), [(0.0001, 1), (2, 2000)])
def test_a_deadline_is_at_least_a_millisecond(deadline: float, sent: int) -> None:
    assert body(chat_request("hi", model="m", stream=False, deadline=deadline))["timeout_ms"] == sent


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), 1e9, True, "5"])
def test_a_deadline_that_is_none_is_refused(deadline: Any) -> None:
    with pytest.raises(InvalidRequest, match="deadline"):
        chat_request("hi", model="m", stream=False, deadline=deadline)
