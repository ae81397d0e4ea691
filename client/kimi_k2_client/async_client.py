"""The asyncio client: the blocking client's methods, with the same options, answers and errors.

Importing it imports asyncio, so the package loads this module when its class is first used.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

from kimi_k2_client.answer import ChatAnswer, ChatEvent, TokensAnswer, TokensEvent, collect, collect_tokens
from kimi_k2_client.connect import (
    DEFAULT_TIMEOUT,
    DEFAULT_URL,
    MAX_ROUNDS,
    READY_INTERVAL,
    health_of,
    not_ready,
    open_async_transport,
    unhealthy,
)
from kimi_k2_client.decoder import ChatDecoder, Outputs, TokensDecoder
from kimi_k2_client.errors import KimiError
from kimi_k2_client.functions import Function, acall_tool, tools_of
from kimi_k2_client.request import (
    CHAT_MODEL,
    ENGINE_MODEL,
    AnswerOptions,
    ChatOptions,
    Messages,
    Request,
    SamplingOptions,
    ToolChoice,
    chat_request,
    generate_request,
)
from kimi_k2_client.retry import Retry
from kimi_k2_client.stream import AsyncStream
from kimi_k2_client.structured import Parsed, format_of, parsed
from kimi_k2_client.tool_loop import ToolLoop, ToolRun
from kimi_k2_client.transport import AsyncTransport, Model, ServerHealth, Stats


class AsyncClient:
    """The asyncio client, with the same methods and options. Create one per event loop, while the loop runs."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = Retry(),  # noqa: B008  frozen
        model: str = CHAT_MODEL,
        engine_model: str = ENGINE_MODEL,
        transport: AsyncTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport or open_async_transport(url, timeout)
        self._retry = retry
        self._model = model
        self._engine_model = engine_model
        self._sleep = sleep or asyncio.sleep
        self._clock = clock
        self._chance = chance

    async def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatAnswer:
        """See Client.chat."""
        request = chat_request(messages, model=self._model, stream=False, **options)
        async with AsyncStream(self._responses(request), ChatDecoder()) as events:
            return collect([event async for event in events])

    def chat_stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> AsyncStream[ChatEvent]:
        """See Client.chat_stream. To leave it early, use `async with` or `await close()`."""
        request = chat_request(messages, model=self._model, stream=True, **options)
        return AsyncStream(self._responses(request), ChatDecoder())

    async def chat_as(self, kind: type[Parsed], messages: Messages, **options: Unpack[AnswerOptions]) -> Parsed:
        """See Client.chat_as."""
        return parsed(kind, await self.chat(messages, response_format=format_of(kind), **options))

    async def run_tools(
        self,
        messages: Messages,
        tools: Sequence[Function],
        *,
        max_rounds: int = MAX_ROUNDS,
        tool_choice: ToolChoice | None = None,
        on_answer: Callable[[ChatAnswer], None] | None = None,
        **options: Unpack[AnswerOptions],
    ) -> ToolRun:
        """See Client.run_tools. The functions may be `async`."""
        known = tools_of(tools, asynchronous=True)
        loop = ToolLoop.begin(messages, known, max_rounds)
        while True:
            choice = loop.choice(tool_choice)
            answer = await self.chat(loop.messages, tools=loop.declarations, tool_choice=choice, **options)
            if on_answer is not None:
                on_answer(answer)
            if not loop.take(answer):
                return loop.run(answer)
            loop.messages.extend([await acall_tool(known, call) for call in answer.tool_calls])
            loop.check()

    async def complete(self, prompt: str, **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """See Client.complete."""
        return await self.generate(prompt, **options)

    def complete_stream(self, prompt: str, **options: Unpack[SamplingOptions]) -> AsyncStream[TokensEvent]:
        """See Client.complete_stream."""
        return self.generate_stream(prompt, **options)

    async def generate(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """See Client.generate."""
        request = generate_request(prompt, model=self._engine_model, stream=False, **options)
        async with AsyncStream(self._responses(request), TokensDecoder()) as events:
            return collect_tokens([event async for event in events])

    def generate_stream(
        self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]
    ) -> AsyncStream[TokensEvent]:
        """See Client.generate_stream."""
        request = generate_request(prompt, model=self._engine_model, stream=True, **options)
        return AsyncStream(self._responses(request), TokensDecoder())

    async def ready(self) -> bool:
        """See Client.ready."""
        try:
            return await self._transport.is_ready(self._model)
        except KimiError:
            return False

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """See Client.wait_ready."""
        deadline = self._clock() + timeout
        while not (await self.health()).model_ready:
            if self._clock() >= deadline:
                raise not_ready(self._model, timeout)
            await self._sleep(READY_INTERVAL)

    async def health(self) -> ServerHealth:
        """See Client.health."""
        try:
            live, ready = await self._transport.is_live(), await self._transport.is_server_ready()
            model_ready = await self._transport.is_ready(self._model)
            return health_of(live=live, ready=ready, model_ready=model_ready, model=self._model)
        except KimiError as error:
            return unhealthy(error)

    async def stats(self, model: str | None = None) -> Stats:
        """See Client.stats."""
        return await self._transport.stats(model or self._model)

    async def models(self) -> list[Model]:
        """See Client.models."""
        return await self._transport.models()

    async def close(self) -> None:
        """See Client.close."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _responses(self, request: Request) -> AsyncGenerator[Outputs]:
        failures = 0
        while True:
            has_begun = False
            try:
                async with aclosing(self._transport.responses(request)) as responses:
                    async for outputs in responses:
                        has_begun = True
                        yield outputs
                return
            except KimiError as error:
                failures += 1
                delay = None if has_begun else self._retry.delay(failures, error, self._chance())
                if delay is None:
                    raise
            await self._sleep(delay)
