"""What the clients need from a transport. Two speak HTTP, two speak gRPC; a test's fake is a third.

`responses(request)` is a generator: nothing is sent before its first step, each step is one response, closing it early
cancels the request on the server, and its normal end means that the server said the answer was over. Every failure is a
KimiError. `timeout` is the longest silence allowed before a response, in seconds; to connect and to say whether a
model is ready, a server gets no longer than `CONNECT_TIMEOUT` and `READY_TIMEOUT`.
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
    """A line of Triton's repository index. `reason` says why a model is not ready, in Triton's words."""

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
