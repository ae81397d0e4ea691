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
    """`live`: Triton answers. `ready`: all its models are loaded. `model_ready`: the chat model takes requests, which
    it does not while the engine restarts. `detail` gives the reason, "" if all is well.
    """

    live: bool
    ready: bool
    model_ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """The counts of Triton for one model since its start. Times are means in seconds over the requests that succeeded:
    `queue_seconds` before the model got the request, `seconds` in total. They are 0 if no request succeeded.
    """

    model: str
    succeeded: int
    failed: int
    cancelled: int
    seconds: float
    queue_seconds: float


def stats_of(model: str, success: Mapping[str, Any], queue: Mapping[str, Any], failed: int, cancelled: int) -> Stats:
    """The Stats of these counts. `success` and `queue` have `count` and `ns`, as Triton counts them."""
    succeeded = int(success["count"])
    seconds, waited = (int(each["ns"]) / 1e9 / succeeded if succeeded else 0.0 for each in (success, queue))
    return Stats(model, succeeded, failed, cancelled, seconds, waited)


class Transport(Protocol):
    """The way to one server, over HTTP or gRPC. Every method raises a KimiError if the server can't be asked."""

    def responses(self, request: Request) -> Generator[Outputs]:
        """Send the request and yield the outputs of each response. Closing the generator cancels the request."""

    def is_live(self) -> bool:
        """Whether Triton's process answers."""

    def is_server_ready(self) -> bool:
        """Whether Triton says that it is ready."""

    def stats(self, model: str) -> Stats:
        """The model's counts and mean times of requests, as Triton reports them."""

    def is_ready(self, model: str) -> bool:
        """Whether Triton says that this model is ready."""

    def models(self) -> list[Model]:
        """The models of Triton's repository."""

    def close(self) -> None:
        """Close the connections."""


class AsyncTransport(Protocol):
    """The same as Transport, for asyncio."""

    def responses(self, request: Request) -> AsyncGenerator[Outputs]:
        """Send the request and yield the outputs of each response. Closing the generator cancels the request."""

    async def is_live(self) -> bool:
        """Whether Triton's process answers."""

    async def is_server_ready(self) -> bool:
        """Whether Triton says that it is ready."""

    async def stats(self, model: str) -> Stats:
        """The model's counts and mean times of requests, as Triton reports them."""

    async def is_ready(self, model: str) -> bool:
        """Whether Triton says that this model is ready."""

    async def models(self) -> list[Model]:
        """The models of Triton's repository."""

    async def close(self) -> None:
        """Close the connections."""
