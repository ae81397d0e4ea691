"""A streamed answer: an iterator of events and a context manager. Leaving it early cancels the request.

The request is sent when the first event is requested. After an error or `close` the iterator is exhausted. Use a stream
from one thread or task at a time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from types import TracebackType
from typing import Generic, Self, TypeVar

from kimi_k2_client.decoder import Decoder, Outputs

Event = TypeVar("Event")


class Stream(Generic[Event]):
    """The events of one answer. Iterate it, or use it in a `with` block, whose end cancels what is still running."""

    def __init__(self, responses: Generator[Outputs], decoder: Decoder[Event]) -> None:
        self._events = _decoded(responses, decoder)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Cancel the request if the answer is not complete. Closing twice is allowed."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncStream(Generic[Event]):
    """The same for `async for` and `async with`."""

    def __init__(self, responses: AsyncGenerator[Outputs], decoder: Decoder[Event]) -> None:
        self._events = _adecoded(responses, decoder)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def close(self) -> None:
        """Cancel the request if the answer is not complete. Closing twice is allowed."""
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _decoded(responses: Generator[Outputs], decoder: Decoder[Event]) -> Generator[Event]:
    with closing(responses):
        for outputs in responses:
            yield from decoder.feed(outputs)
        yield from decoder.finish()


async def _adecoded(responses: AsyncGenerator[Outputs], decoder: Decoder[Event]) -> AsyncGenerator[Event]:
    async with aclosing(responses):
        async for outputs in responses:
            for event in decoder.feed(outputs):
                yield event
        for event in decoder.finish():
            yield event
