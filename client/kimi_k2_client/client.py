"""The blocking client: a thin layer over parts that the asyncio client shares.

    request.py -> transport -> decoder.py -> stream.py -> answer.py

The URL's scheme selects the transport: `http://`, `https://`, `grpc://`, `grpcs://`. Every failure between the caller
and the model is raised as a KimiError.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
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
    open_transport,
    unhealthy,
)
from kimi_k2_client.decoder import ChatDecoder, Outputs, TokensDecoder
from kimi_k2_client.errors import KimiError
from kimi_k2_client.functions import Function, call_tool, tools_of
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
from kimi_k2_client.stream import Stream
from kimi_k2_client.structured import Parsed, format_of, parsed
from kimi_k2_client.tool_loop import ToolLoop, ToolRun
from kimi_k2_client.transport import Model, ServerHealth, Stats, Transport


class Client:
    """The blocking client, safe to share between threads.

    url: `http://HOST:PORT` of Triton's HTTP, or `grpc://HOST:PORT` of its gRPC; `https://` and `grpcs://` with TLS
    timeout: the longest silence before a response, in seconds; `deadline` of a request limits its whole duration
    retry: which failed requests are sent again, and when
    model, engine_model: the names of the models in Triton's repository
    transport: a transport of your own, such as HttpTransport with an httpx client; then `url` and `timeout` are unused
    sleep, clock, chance: the time and the random numbers in [0, 1), for tests
    """

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
        self._transport = transport or open_transport(url, timeout)
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

    def chat_as(self, kind: type[Parsed], messages: Messages, **options: Unpack[AnswerOptions]) -> Parsed:
        """The answer as an instance of a pydantic model, whose schema the server's grammar enforces.

        Raises UnexpectedAnswer if the answer ended before the object was complete, or breaks a rule of the model that
        no JSON Schema expresses.
        """
        return parsed(kind, self.chat(messages, response_format=format_of(kind), **options))

    def run_tools(
        self,
        messages: Messages,
        tools: Sequence[Function],
        *,
        max_rounds: int = MAX_ROUNDS,
        tool_choice: ToolChoice | None = None,
        on_answer: Callable[[ChatAnswer], None] | None = None,
        **options: Unpack[AnswerOptions],
    ) -> ToolRun:
        """Chat, run the functions that the model calls, and chat again with their results, until it calls none.

        The tools' schemas come from their signatures and docstrings (see `functions`). Calls of one answer run one
        after the other. `ToolError` in a function becomes the call's result; any other exception ends the run.
        `tool_choice` applies only to the first answer; otherwise a required call would be required for ever.
        `on_answer` gets every answer. Raises TooManyRounds after `max_rounds` answers with calls.
        """
        known = tools_of(tools, asynchronous=False)
        loop = ToolLoop.begin(messages, known, max_rounds)
        while True:
            answer = self.chat(loop.messages, tools=loop.declarations, tool_choice=loop.choice(tool_choice), **options)
            if on_answer is not None:
                on_answer(answer)
            if not loop.take(answer):
                return loop.run(answer)
            loop.messages.extend(call_tool(known, call) for call in answer.tool_calls)
            loop.check()

    def complete(self, prompt: str, **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """The engine's continuation of a text: no chat, no template. Its text is `.text`."""
        return self.generate(prompt, **options)

    def complete_stream(self, prompt: str, **options: Unpack[SamplingOptions]) -> Stream[TokensEvent]:
        """The same continuation as events. The last one is Finished."""
        return self.generate_stream(prompt, **options)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> TokensAnswer:
        """The engine's continuation of `prompt` (text or token ids) as text and ids, without template or tools."""
        request = generate_request(prompt, model=self._engine_model, stream=False, **options)
        return collect_tokens(Stream(self._responses(request), TokensDecoder()))

    def generate_stream(self, prompt: str | Sequence[int], **options: Unpack[SamplingOptions]) -> Stream[TokensEvent]:
        """The same continuation as events: TokensDelta, and Finished at the end."""
        request = generate_request(prompt, model=self._engine_model, stream=True, **options)
        return Stream(self._responses(request), TokensDecoder())

    def ready(self) -> bool:
        """Whether Triton answers and says that the chat model is ready."""
        try:
            return self._transport.is_ready(self._model)
        except KimiError:
            return False

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return as soon as the chat model takes requests. Raises Unavailable after `timeout` seconds, and WrongPort at
        once.
        """
        deadline = self._clock() + timeout
        while not self.health().model_ready:
            if self._clock() >= deadline:
                raise not_ready(self._model, timeout)
            self._sleep(READY_INTERVAL)

    def health(self) -> ServerHealth:
        """Whether Triton answers, has loaded its models, and takes chats. Raises only WrongPort."""
        try:
            live, ready = self._transport.is_live(), self._transport.is_server_ready()
            return health_of(
                live=live, ready=ready, model_ready=self._transport.is_ready(self._model), model=self._model
            )
        except KimiError as error:
            return unhealthy(error)

    def stats(self, model: str | None = None) -> Stats:
        """The counts that Triton has for a model, by default the chat model."""
        return self._transport.stats(model or self._model)

    def models(self) -> list[Model]:
        """All models in the server's repository."""
        return self._transport.models()

    def close(self) -> None:
        """Close the connections. Requests under way end with an error."""
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
