"""The interface of a transport to the clients. There are two for HTTP, two for gRPC, and fakes in the tests.

`responses(request)` is a generator. It sends nothing before its first step, and each step yields one response. Closing
it early cancels the request on the server. If it ends normally, the server said that the answer is complete. Every
failure is a KimiError. `timeout` is the maximum silence before a response, in seconds; connecting and readiness checks
have at most `CONNECT_TIMEOUT` and `READY_TIMEOUT`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Protocol

from kimi_k2_client.decoder import Outputs
from kimi_k2_client.request import Request

CONNECT_TIMEOUT = 10.0  # seconds
READY_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of Triton's repository index. `reason` is Triton's explanation why the model is not ready."""

    name: str
    version: str
    is_ready: bool
    reason: str


class Transport(Protocol):
    def responses(self, request: Request) -> Generator[Outputs]: ...

    def is_ready(self, model: str) -> bool: ...

    def models(self) -> list[Model]: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    def responses(self, request: Request) -> AsyncGenerator[Outputs]: ...

    async def is_ready(self, model: str) -> bool: ...

    async def models(self) -> list[Model]: ...

    async def close(self) -> None: ...
