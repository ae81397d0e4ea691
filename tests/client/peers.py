"""The four clients behind one shape, so that a promise is tested on all: blocking and asyncio, HTTP and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from fake_triton import HttpTriton, Script, grpc_triton

from kimi_k2_client import AsyncClient, AsyncStream, Client, Retry, Stream
from kimi_k2_client.grpc_transport import AsyncGrpcTransport, GrpcTransport
from kimi_k2_client.http_transport import AsyncHttpTransport, HttpTransport

URL = "http://triton"


@dataclass
class Peer:
    """One kind of client. `slept` are the seconds it waited between attempts."""

    transport: str
    is_async: bool
    timeout: float = 20.0
    retry: Retry = field(default_factory=Retry)
    model: str = "kimi_k2"
    slept: list[float] = field(default_factory=list)

    def call(self, script: Script, method: str, *args: Any, take: int | None = None, **options: Any) -> Any:
        """A method's result; of a stream, its events, all of them or the first `take`, leaving early."""
        if self.is_async:
            return asyncio.run(self._acall(script, method, args, take, options))
        with self.client(script) as client:
            result = getattr(client, method)(*args, **options)
            if not isinstance(result, Stream):
                return result
            with result:
                return [event for event, _ in zip(result, range(take), strict=False)] if take else list(result)

    async def _acall(self, script: Script, method: str, args: Any, take: int | None, options: Any) -> Any:
        async with self.async_client(script) as client:
            result = getattr(client, method)(*args, **options)
            if not isinstance(result, AsyncStream):
                return await result
            async with result:
                return [await anext(result) for _ in range(take)] if take else [event async for event in result]

    @contextmanager
    def client(self, script: Script) -> Iterator[Client]:
        common = {**self._common(), "sleep": self.slept.append}
        if self.transport == "http":
            http = httpx.Client(transport=httpx.MockTransport(HttpTriton(script)))
            with Client(transport=HttpTransport(URL, timeout=self.timeout, http=http), **common) as client:
                yield client
            return
        with (
            grpc_triton(script) as address,
            Client(transport=GrpcTransport(address, timeout=self.timeout), **common) as client,
        ):
            yield client

    @asynccontextmanager
    async def async_client(self, script: Script) -> AsyncIterator[AsyncClient]:
        common = {**self._common(), "sleep": self._sleep}
        if self.transport == "http":
            http = httpx.AsyncClient(transport=httpx.MockTransport(HttpTriton(script)))
            async with AsyncClient(
                transport=AsyncHttpTransport(URL, timeout=self.timeout, http=http), **common
            ) as client:
                yield client
            return
        with grpc_triton(script) as address:
            transport = AsyncGrpcTransport(address, timeout=self.timeout)
            async with AsyncClient(transport=transport, **common) as client:
                yield client

    def _common(self) -> dict[str, Any]:
        """Its time passes only while it sleeps, and it is never lucky."""
        return {"retry": self.retry, "model": self.model, "chance": lambda: 0.0, "clock": lambda: sum(self.slept)}

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


KINDS = [(transport, is_async) for transport in ("http", "grpc") for is_async in (False, True)]
NAMES = [f"{transport}-{'asyncio' if is_async else 'blocking'}" for transport, is_async in KINDS]
