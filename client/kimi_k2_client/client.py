"""The blocking and the asyncio client. Both are thin layers over the same parts:

    request.py -> transport -> decoder.py -> stream.py -> answer.py

The URL's scheme selects the transport: `http://`, `https://`, `grpc://`, `grpcs://`. Only that transport is imported.
Every failure between the caller and the model is raised as a KimiError.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, closing
from types import TracebackType
from typing import Self, Unpack
from urllib.parse import urlsplit

from kimi_k2_client.answer import ChatAnswer, ChatEvent, TokensAnswer, TokensEvent, collect, collect_tokens
from kimi_k2_client.decoder import ChatDecoder, Outputs, TokensDecoder
from kimi_k2_client.errors import KimiError, Unavailable
from kimi_k2_client.request import (
    CHAT_MODEL,
    ENGINE_MODEL,
    ChatOptions,
    Messages,
    Request,
    SamplingOptions,
    chat_request,
    generate_request,
)
from kimi_k2_client.retry import Retry
from kimi_k2_client.stream import AsyncStream, Stream
from kimi_k2_client.transport import AsyncTransport, Model, Transport

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 600.0  # seconds of silence; for a whole answer of 32K tokens nothing arrives until it is complete
READY_INTERVAL = 0.25  # seconds between two checks


class Client:
    """Safe to share between threads. Tests replace `sleep`, `clock` and `chance` (random numbers in [0, 1))."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = Retry(),  # noqa: B008  frozen
        model: str = CHAT_MODEL,
        engine_model: str = ENGINE_MODEL,
        transport: Transport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport or _transport(url, timeout)
        self._retry = retry
        self._model = model
        self._engine_model = engine_model
        self._sleep = sleep
        self._clock = clock
        self._chance = chance

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatAnswer:
        """The whole answer to a conversation (OpenAI messages, or one user message as a string)."""
        request = chat_request(messages, model=self._model, stream=False, **options)
        return collect(Stream(self._responses(request), ChatDecoder()))

    def chat_stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream[ChatEvent]:
        """The same answer as events. The last one is Finished."""
        request = chat_request(messages, model=self._model, stream=True, **options)
        return Stream(self._responses(request), ChatDecoder())

    def generate(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """The engine's continuation of `prompt` (text or token ids), without template or tools."""
        request = generate_request(prompt, model=self._engine_model, stream=False, **options)
        return collect_tokens(Stream(self._responses(request), TokensDecoder()))

    def generate_stream(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> Stream[TokensEvent]:
        request = generate_request(prompt, model=self._engine_model, stream=True, **options)
        return Stream(self._responses(request), TokensDecoder())

    def ready(self) -> bool:
        """Whether Triton answers and says that the chat model is ready."""
        try:
            return self._transport.is_ready(self._model)
        except KimiError:
            return False

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as `ready()`; raise Unavailable after `timeout` seconds."""
        deadline = self._clock() + timeout
        while not self.ready():
            if self._clock() >= deadline:
                raise _not_ready(self._model, timeout)
            self._sleep(READY_INTERVAL)

    def models(self) -> list[Model]:
        """All models in the server's repository."""
        return self._transport.models()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _responses(self, request: Request) -> Generator[Outputs]:
        """The transport's responses. An attempt that fails before its first one is retried as the policy says."""
        failures = 0
        while True:
            has_begun = False
            try:
                with closing(self._transport.responses(request)) as responses:
                    for outputs in responses:
                        has_begun = True
                        yield outputs
                return
            except KimiError as error:
                failures += 1
                delay = None if has_begun else self._retry.delay(failures, error, self._chance())
                if delay is None:
                    raise
            self._sleep(delay)


class AsyncClient:
    """The same client for asyncio. Create one per event loop, while the loop runs."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry = Retry(),  # noqa: B008  frozen
        model: str = CHAT_MODEL,
        engine_model: str = ENGINE_MODEL,
        transport: AsyncTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport or _async_transport(url, timeout)
        self._retry = retry
        self._model = model
        self._engine_model = engine_model
        self._sleep = sleep
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

    async def generate(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """See Client.generate."""
        request = generate_request(prompt, model=self._engine_model, stream=False, **options)
        async with AsyncStream(self._responses(request), TokensDecoder()) as events:
            return collect_tokens([event async for event in events])

    def generate_stream(
        self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]
    ) -> AsyncStream[TokensEvent]:
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
        while not await self.ready():
            if self._clock() >= deadline:
                raise _not_ready(self._model, timeout)
            await self._sleep(READY_INTERVAL)

    async def models(self) -> list[Model]:
        """See Client.models."""
        return await self._transport.models()

    async def close(self) -> None:
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


def _transport(url: str, timeout: float) -> Transport:
    scheme, address = _split(url)
    if scheme.startswith("http"):
        from kimi_k2_client.http_transport import HttpTransport

        return HttpTransport(url, timeout=timeout)
    from kimi_k2_client.grpc_transport import GrpcTransport

    return GrpcTransport(address, timeout=timeout, secure=scheme == "grpcs")


def _async_transport(url: str, timeout: float) -> AsyncTransport:
    scheme, address = _split(url)
    if scheme.startswith("http"):
        from kimi_k2_client.http_transport import AsyncHttpTransport

        return AsyncHttpTransport(url, timeout=timeout)
    from kimi_k2_client.grpc_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(address, timeout=timeout, secure=scheme == "grpcs")


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http://, https://, grpc:// or grpcs:// URL with a host")
    return parts.scheme, parts.netloc


def _not_ready(model: str, timeout: float) -> Unavailable:
    return Unavailable("unavailable", f"{model} was not ready within {timeout:g} s", status=None)
