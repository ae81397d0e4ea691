"""litellm (its openai and anthropic providers) and langchain-openai."""

from __future__ import annotations

import asyncio
import json

import litellm
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.frontend.clients.conftest import CALL, KEY, TOOL, TRITON, is_forecast

litellm.suppress_debug_info = True


class Forecast(BaseModel):
    """The weather."""

    city: str
    days: int = Field(ge=1, le=7)


def options(url: str, provider: str) -> dict[str, str]:
    base = url if provider == "anthropic" else f"{url}/v1"
    return {"model": f"{provider}/kimi_k2", "api_base": base, "api_key": KEY}


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
def test_litellm_answers(url: str, provider: str) -> None:
    messages = [{"role": "user", "content": "say hello"}]
    answer = litellm.completion(messages=messages, max_tokens=8, **options(url, provider))
    assert answer.choices[0].finish_reason in ("stop", "length")
    chunks = list(litellm.completion(messages=messages, max_tokens=8, stream=True, **options(url, provider)))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
def test_litellm_calls_tools(url: str, provider: str, stream: bool) -> None:
    messages = [{"role": "user", "content": CALL}]
    answer = litellm.completion(
        messages=messages,
        max_tokens=400,
        tools=[TOOL],
        tool_choice="required",
        stream=stream,
        **options(url, provider),
    )
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=messages)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert is_forecast(json.loads(answer.choices[0].message.tool_calls[0].function.arguments))


@pytest.mark.triton
def test_litellm_speaks_to_triton_itself() -> None:
    answer = litellm.completion(
        model="triton/kimi_k2",
        api_base=f"{TRITON}/v2/models/kimi_k2/generate",
        messages=[{"role": "user", "content": "say hello"}],
        max_tokens=8,
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_litellm_on_asyncio(url: str, provider: str) -> None:
    messages = [{"role": "user", "content": "say hello"}]

    async def stream() -> list[str | None]:
        chunks = await litellm.acompletion(messages=messages, max_tokens=8, stream=True, **options(url, provider))
        return [chunk.choices[0].finish_reason async for chunk in chunks]

    assert asyncio.run(stream())[-1] in ("stop", "length")


def test_litellm_knows_what_was_wrong(url: str) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=messages, **options(url, "openai"))


@pytest.fixture
def chat(url: str) -> ChatOpenAI:
    options = {"max_retries": 0, "max_tokens": 400, "stream_usage": True}
    return ChatOpenAI(model="kimi_k2", base_url=f"{url}/v1", api_key=KEY, **options)


def test_langchain_binds_tools_and_goes_on(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([TOOL], tool_choice="required")
    first = bound.invoke(CALL)
    assert is_forecast(first.tool_calls[0]["args"])
    results = [ToolMessage("sunny", tool_call_id=call["id"]) for call in first.tool_calls]
    second = chat.bind(max_tokens=8).invoke([HumanMessage(CALL), first, *results])
    assert second.response_metadata["finish_reason"] in ("stop", "length")


def test_langchain_adds_up_streamed_calls(chat: ChatOpenAI) -> None:
    whole = AIMessageChunk("")
    for chunk in chat.bind_tools([TOOL], tool_choice="required").stream(CALL):
        whole += chunk
    assert is_forecast(whole.tool_calls[0]["args"])
    assert whole.usage_metadata["output_tokens"] > 0


def test_langchain_on_asyncio(chat: ChatOpenAI) -> None:
    async def ask() -> tuple[str, str]:
        brief = chat.bind(max_tokens=8)
        whole = await brief.ainvoke("say hello")
        streamed = AIMessageChunk("")
        async for chunk in brief.astream("say hello"):
            streamed += chunk
        return whole.response_metadata["finish_reason"], streamed.response_metadata["finish_reason"]

    assert set(asyncio.run(ask())) <= {"stop", "length"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(chat: ChatOpenAI, method: str) -> None:
    text = 'say {"city":"Bern","days":2}' if method == "json_schema" else 'call Forecast {"city":"Bern","days":2}'
    assert isinstance(chat.with_structured_output(Forecast, method=method).invoke(text), Forecast)
