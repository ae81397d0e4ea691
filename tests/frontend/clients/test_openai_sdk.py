"""The official openai SDK: blocking, asyncio, streaming helpers, parse, error classes, retries."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.frontend.clients.conftest import CALL, KEY, TOOL, is_forecast, scripted

FLAT = {"type": "function", **TOOL["function"]}


class Rain(BaseModel):
    kind: Literal["drizzle", "shower"]
    hours: int = Field(ge=0, le=24)


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_models(client: openai.OpenAI) -> None:
    assert next(iter(client.models.list())).id == "kimi_k2"
    assert client.models.retrieve("kimi_k2").object == "model"


def test_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="kimi_k2", messages=user("say hello"), max_tokens=8)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


@scripted
def test_a_known_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="kimi_k2", messages=user("say grüezi"))
    assert answer.choices[0].message.content == "grüezi"


def test_a_required_call_fits_its_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="kimi_k2", messages=user(CALL), tools=[TOOL], tool_choice="required", max_tokens=400
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.id == "functions.forecast:0"
    assert is_forecast(json.loads(call.function.arguments))


def test_the_streaming_helper_puts_calls_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="kimi_k2",
        messages=user(CALL),
        tools=[TOOL],
        tool_choice="required",
        max_tokens=400,
        stream_options={"include_usage": True},
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    assert answer.choices[0].finish_reason == "tool_calls"
    assert is_forecast(json.loads(answer.choices[0].message.tool_calls[0].function.arguments))
    assert answer.usage.completion_tokens > 0


def test_parse_returns_the_models_type(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="kimi_k2", messages=user('say {"kind":"shower","hours":3}'), response_format=Rain, max_tokens=400
    )
    assert isinstance(answer.choices[0].message.parsed, Rain)


def test_parse_returns_tool_arguments(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Rain, name="rain")
    answer = client.chat.completions.parse(
        model="kimi_k2",
        messages=user('call rain {"kind":"shower","hours":3}'),
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "rain"}},
        max_tokens=400,
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Rain)


def test_a_tool_loop_of_two_steps(client: openai.OpenAI) -> None:
    messages: list = user(CALL)
    first = client.chat.completions.create(
        model="kimi_k2", messages=messages, tools=[TOOL], tool_choice="required", max_tokens=400
    )
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    second = client.chat.completions.create(
        model="kimi_k2", messages=messages, tools=[TOOL], tool_choice="none", max_tokens=16
    )
    assert second.choices[0].message.tool_calls is None
    assert second.choices[0].finish_reason in ("stop", "length")


def test_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="kimi_k2", messages=user("say abc"), n=2, logprobs=True, top_logprobs=2, max_tokens=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


@scripted
def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="kimi_k2", messages=user("say one STOP two"), stop="STOP")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one ", "stop")


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="kimi_k2", prompt="say hello", max_tokens=4)
    assert answer.choices[0].finish_reason in ("stop", "length")
    streamed = list(client.completions.create(model="kimi_k2", prompt="say hello", max_tokens=4, stream=True))
    assert streamed[-1].choices[0].finish_reason in ("stop", "length")


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="kimi_k2", input="say hello", max_output_tokens=8)
    assert answer.status in ("completed", "incomplete")
    called = client.responses.create(
        model="kimi_k2", input=CALL, tools=[FLAT], tool_choice="required", max_output_tokens=400
    )
    (call,) = [item for item in called.output if item.type == "function_call"][:1]
    assert is_forecast(json.loads(call.arguments))
    again = client.responses.create(
        model="kimi_k2",
        input=[
            {"role": "user", "content": CALL},
            *called.output,
            *[
                {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
                for item in called.output
                if item.type == "function_call"
            ],
        ],
        tools=[FLAT],
        tool_choice="none",
        max_output_tokens=8,
    )
    assert again.status in ("completed", "incomplete")


def test_responses_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="kimi_k2", input=CALL, tools=[FLAT], tool_choice="required", max_output_tokens=400
    ) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert is_forecast(json.loads(answer.output[-1].arguments))


def test_responses_parse(client: openai.OpenAI) -> None:
    answer = client.responses.parse(
        model="kimi_k2", input='say {"kind":"shower","hours":3}', text_format=Rain, max_output_tokens=400
    )
    assert isinstance(answer.output_parsed, Rain)


def test_refusals_have_the_sdks_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-x", messages=user("a"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as required:
        client.chat.completions.create(model="kimi_k2", messages=user("a"), tool_choice="required")
    assert (required.value.code, required.value.param) == ("missing_field", "tools")
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="kimi_k2", messages=user("word " * 100_000))
    assert too_long.value.code == "context_length_exceeded"


def test_a_stranger_is_refused_as_one(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-somebody-elses-key") as client,
        pytest.raises(openai.AuthenticationError) as stranger,
    ):
        client.chat.completions.create(model="kimi_k2", messages=user("a"))
    assert stranger.value.code == "invalid_api_key"


@scripted
def test_a_client_that_waits_no_longer_has_its_own_class(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(model="kimi_k2", messages=user("wait 5 say late"))


@scripted
def test_busy_and_down_have_the_sdks_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="kimi_k2", messages=user("fail overloaded"))
    with pytest.raises(openai.InternalServerError) as down:
        client.chat.completions.create(model="kimi_k2", messages=user("fail engine_unavailable"))
    assert down.value.status_code == 503
    with pytest.raises(openai.APIError) as broken:
        list(client.chat.completions.create(model="kimi_k2", messages=user("break engine_lost"), stream=True))
    assert broken.value.code == "engine_lost"


@scripted
def test_the_sdk_retries_what_is_worth_it(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=1) as client:
        create = client.chat.completions.with_raw_response.create
        for code in ("overloaded", "engine_unavailable"):
            raw = create(model="kimi_k2", messages=user(f"once {code} {uuid.uuid4().hex} say ab"))
            assert raw.retries_taken == 1
            assert raw.parse().choices[0].message.content == "ab"
        with pytest.raises(openai.RateLimitError):
            create(model="kimi_k2", messages=user("fail overloaded"))
        with pytest.raises(openai.BadRequestError):
            create(model="kimi_k2", messages=user(f"once invalid_value {uuid.uuid4().hex} say ab"))
        assert create(model="kimi_k2", messages=user("say ab")).retries_taken == 0


def test_every_answer_has_its_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="kimi_k2", messages=user("say ab"), max_tokens=2)
    assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id


async def _stream(url: str) -> tuple[str, str | None]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        text, reason = "", None
        stream = await client.chat.completions.create(
            model="kimi_k2", messages=user("say hello"), stream=True, max_tokens=8
        )
        async for chunk in stream:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
        return text, reason


def test_asyncio_streams(url: str) -> None:
    _, reason = asyncio.run(_stream(url))
    assert reason in ("stop", "length")


async def _everything_at_once(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:

        async def helper() -> str | None:
            async with client.chat.completions.stream(
                model="kimi_k2",
                messages=user('call rain {"kind":"shower","hours":3}'),
                tools=[openai.pydantic_function_tool(Rain, name="rain")],
                tool_choice="required",
                max_tokens=400,
            ) as stream:
                return (await stream.get_final_completion()).choices[0].finish_reason

        text = 'say {"kind":"shower","hours":3}'
        finish, parsed, response = await asyncio.gather(
            helper(),
            client.chat.completions.parse(
                model="kimi_k2", messages=user(text), response_format=Rain, max_completion_tokens=400
            ),
            client.responses.create(model="kimi_k2", input="say hello", max_output_tokens=8),
        )
        assert finish == "tool_calls"
        assert isinstance(parsed.choices[0].message.parsed, Rain)
        assert response.status in ("completed", "incomplete")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-x")


def test_asyncio_helpers_side_by_side(url: str) -> None:
    asyncio.run(_everything_at_once(url))
