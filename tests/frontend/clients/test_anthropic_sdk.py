"""The official anthropic SDK: blocking, asyncio, the streaming helper, token counts, error classes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Literal

import anthropic
import pytest
from pydantic import BaseModel

from tests.frontend.clients.conftest import CALL, KEY, PARAMETERS, is_forecast, scripted

TOOL = {"name": "forecast", "description": "The weather", "input_schema": PARAMETERS}


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_whole_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="kimi_k2", max_tokens=8, messages=user("say hello"))
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens > 0
    assert message._request_id


@scripted
def test_a_known_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model="kimi_k2", max_tokens=50, messages=user("say one STOP two"), stop_sequences=["STOP"]
    )
    assert (message.content[0].text, message.stop_reason, message.stop_sequence) == ("one ", "stop_sequence", "STOP")


def test_a_call_and_its_result(client: anthropic.Anthropic) -> None:
    messages: list = user(CALL)
    first = client.messages.create(
        model="kimi_k2", max_tokens=400, messages=messages, tools=[TOOL], tool_choice={"type": "any"}
    )
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    assert all(is_forecast(call.input) for call in calls)
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = client.messages.create(
        model="kimi_k2", max_tokens=8, messages=messages, tools=[TOOL], tool_choice={"type": "none"}
    )
    assert second.stop_reason in ("end_turn", "max_tokens")


def test_the_streaming_helper_puts_blocks_together(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="kimi_k2",
        max_tokens=400,
        messages=user(CALL),
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "forecast", "disable_parallel_tool_use": True},
    ) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert "input_json" in kinds
    (call,) = message.content
    assert is_forecast(call.input)
    assert message.usage.output_tokens > 0


def test_streamed_text(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="kimi_k2", max_tokens=8, messages=user("say hello")) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "".join(block.text for block in message.content)


def test_the_count_is_the_usage(client: anthropic.Anthropic) -> None:
    options = {"model": "kimi_k2", "messages": user("say hello"), "system": "Be brief.", "tools": [TOOL]}
    counted = client.messages.count_tokens(**options)
    usage = client.messages.create(**options, max_tokens=4).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_refusals_have_the_sdks_own_classes(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude-x", max_tokens=8, messages=user("a"))
    block = {"type": "image", "source": {"type": "url", "url": "http://x"}}
    with pytest.raises(anthropic.BadRequestError) as image:
        client.messages.create(model="kimi_k2", max_tokens=8, messages=[{"role": "user", "content": [block]}])
    assert "messages[0].content[0].type" in str(image.value)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model="kimi_k2", max_tokens=8, messages=user("word " * 100_000))


@scripted
def test_busy_down_and_broken_have_the_sdks_own_classes(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(model="kimi_k2", max_tokens=8, messages=user("fail overloaded"))
    with pytest.raises(anthropic.APIStatusError) as down:
        client.messages.create(model="kimi_k2", max_tokens=8, messages=user("fail engine_unavailable"))
    assert down.value.status_code == 503
    with (
        pytest.raises(anthropic.APIStatusError, match="as the script says"),
        client.messages.stream(model="kimi_k2", max_tokens=50, messages=user("break engine_lost")) as stream,
    ):
        stream.get_final_message()


async def _stream(url: str) -> anthropic.types.Message:
    async with (
        anthropic.AsyncAnthropic(base_url=url, auth_token=KEY) as client,
        client.messages.stream(model="kimi_k2", max_tokens=8, messages=user("say hello")) as stream,
    ):
        return await stream.get_final_message()


def test_asyncio_streams(url: str) -> None:
    assert asyncio.run(_stream(url)).stop_reason in ("end_turn", "max_tokens")


async def _whole(url: str) -> tuple[anthropic.types.Message, int]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY) as client:
        options = {"model": "kimi_k2", "messages": user("say hello")}
        message, count = await asyncio.gather(
            client.messages.create(**options, max_tokens=8), client.messages.count_tokens(**options)
        )
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="claude-x", max_tokens=8, messages=user("a"))
        return message, count.input_tokens


def test_asyncio_whole_and_counted(url: str) -> None:
    message, count = asyncio.run(_whole(url))
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == count


class Rain(BaseModel):
    """No bounds: the SDK takes them out of the schema before it sends it."""

    kind: Literal["drizzle", "shower"]
    hours: int


def test_parse_returns_the_models_type(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(
        model="kimi_k2", max_tokens=400, messages=user('say {"kind":"shower","hours":3}'), output_format=Rain
    )
    assert isinstance(message.parsed_output, Rain)


def test_a_stranger_is_refused_as_one(url: str) -> None:
    with (
        anthropic.Anthropic(base_url=url, api_key="sk-somebody-elses-key") as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(model="kimi_k2", max_tokens=8, messages=user("a"))


@scripted
def test_the_sdk_retries_what_is_worth_it(url: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=1) as client:
        for code in ("overloaded", "engine_unavailable"):
            raw = client.messages.with_raw_response.create(
                model="kimi_k2", max_tokens=8, messages=user(f"once {code} {uuid.uuid4().hex} say ab")
            )
            assert raw.retries_taken == 1
            assert raw.parse().content[0].text == "ab"
