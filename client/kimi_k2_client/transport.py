"""The interface of a transport to the clients. There are two for HTTP, two for gRPC, and fakes in the tests.

`responses(request)` is a generator. It sends nothing before its first step, and each step yields one response. Closing
it early cancels the request on the server. If it ends normally, the server said that the answer is complete. Every
failure is a KimiError. `timeout` is the maximum silence before a response, in seconds; connecting and readiness checks
have at most `CONNECT_TIMEOUT` and `READY_TIMEOUT`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """`live`: Triton answers. `ready`: all its models are loaded. `model_ready`: the chat model takes requests; while
    the engine is started again, it does not. `detail` says why, "" if all is well.
    """

    live: bool
    ready: bool
    model_ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What Triton has counted for one model since its start. Times are means in seconds over the requests that
    succeeded: `queue_seconds` before the model got it, `seconds` in all; 0 if there were none.
    """

    model: str
    succeeded: int
    failed: int
    cancelled: int
    seconds: float
    queue_seconds: float


def stats_of(model: str, success: Mapping[str, Any], queue: Mapping[str, Any], failed: int, cancelled: int) -> Stats:
    """`success` and `queue` have `count` and `ns`, as Triton counts them."""
    succeeded = int(success["count"])
    seconds, waited = (int(each["ns"]) / 1e9 / succeeded if succeeded else 0.0 for each in (success, queue))
    return Stats(model, succeeded, failed, cancelled, seconds, waited)


class Transport(Protocol):
    def responses(self, request: Request) -> Generator[Outputs]: ...

    def is_live(self) -> bool: ...

    def is_server_ready(self) -> bool: ...

    def stats(self, model: str) -> Stats: ...

    def is_ready(self, model: str) -> bool: ...

    def models(self) -> list[Model]: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    def responses(self, request: Request) -> AsyncGenerator[Outputs]: ...

    async def is_live(self) -> bool: ...

    async def is_server_ready(self) -> bool: ...

    async def stats(self, model: str) -> Stats: ...

    async def is_ready(self, model: str) -> bool: ...

    async def models(self) -> list[Model]: ...

    async def close(self) -> None: ...
