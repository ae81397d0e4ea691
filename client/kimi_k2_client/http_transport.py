"""Triton's HTTP: `generate` for a whole answer, `generate_stream` (server-sent events) for a streamed one.

A request is cancelled by closing the socket, which Triton notices at its next write. Proxy settings of the environment
are ignored. For proxies, TLS settings or headers, pass your own httpx client (`http=`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from kimi_k2_client.decoder import Outputs, decode_json
from kimi_k2_client.errors import (
    KimiError,
    UnexpectedAnswer,
    is_grpc,
    is_not_triton,
    lost,
    refusal,
    timed_out,
    unreachable,
)
from kimi_k2_client.request import Request, generate_body
from kimi_k2_client.sse import SseDecoder
from kimi_k2_client.transport import CONNECT_TIMEOUT, READY_TIMEOUT, Model, Stats, stats_of

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
LIMITS = httpx.Limits(max_connections=None)  # each stream needs a connection, and the server limits their number
INDEX_PATH = "/v2/repository/index"
LIVE_PATH, READY_PATH = "/v2/health/live", "/v2/health/ready"


class HttpTransport:
    """Safe to share between threads."""

    def __init__(self, url: str, *, timeout: float, http: httpx.Client | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = http or httpx.Client(trust_env=False, limits=LIMITS)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))

    def responses(self, request: Request) -> Generator[Outputs]:
        with (
            _kimi_errors(self._url, self._timeout),
            self._http.stream("POST", **_call(self._url, request), timeout=self._timeout) as response,
        ):
            if response.status_code != 200:
                raise _refused(self._url, response, response.read())
            if not request.stream:
                yield decode_json(response.read())
                return
            decoder = SseDecoder()
            for chunk in response.iter_bytes():
                for data in decoder.feed(chunk):
                    yield decode_json(data)

    def is_ready(self, model: str) -> bool:
        return self._answers(_ready_path(model))

    def is_live(self) -> bool:
        return self._answers(LIVE_PATH)

    def is_server_ready(self) -> bool:
        return self._answers(READY_PATH)

    def _answers(self, path: str) -> bool:
        with _kimi_errors(self._url, self._timeout):
            return _is_ready(self._url, self._http.get(self._url + path, timeout=READY_TIMEOUT))

    def stats(self, model: str) -> Stats:
        with _kimi_errors(self._url, self._timeout):
            return _stats(self._url, self._http.get(self._url + _stats_path(model), timeout=self._timeout))

    def models(self) -> list[Model]:
        with _kimi_errors(self._url, self._timeout):
            found = self._http.post(self._url + INDEX_PATH, content=b"{}", timeout=self._timeout)
            return _models(self._url, found)

    def close(self) -> None:
        self._http.close()


class AsyncHttpTransport:
    def __init__(self, url: str, *, timeout: float, http: httpx.AsyncClient | None = None) -> None:
        self._url = url.rstrip("/")
        self._http = http or httpx.AsyncClient(trust_env=False, limits=LIMITS)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))

    async def responses(self, request: Request) -> AsyncGenerator[Outputs]:
        with _kimi_errors(self._url, self._timeout):
            call = _call(self._url, request)
            async with self._http.stream("POST", **call, timeout=self._timeout) as response:
                if response.status_code != 200:
                    raise _refused(self._url, response, await response.aread())
                if not request.stream:
                    yield decode_json(await response.aread())
                    return
                decoder = SseDecoder()
                async for chunk in response.aiter_bytes():
                    for data in decoder.feed(chunk):
                        yield decode_json(data)

    async def is_ready(self, model: str) -> bool:
        return await self._answers(_ready_path(model))

    async def is_live(self) -> bool:
        return await self._answers(LIVE_PATH)

    async def is_server_ready(self) -> bool:
        return await self._answers(READY_PATH)

    async def _answers(self, path: str) -> bool:
        with _kimi_errors(self._url, self._timeout):
            return _is_ready(self._url, await self._http.get(self._url + path, timeout=READY_TIMEOUT))

    async def stats(self, model: str) -> Stats:
        with _kimi_errors(self._url, self._timeout):
            return _stats(self._url, await self._http.get(self._url + _stats_path(model), timeout=self._timeout))

    async def models(self) -> list[Model]:
        with _kimi_errors(self._url, self._timeout):
            found = await self._http.post(self._url + INDEX_PATH, content=b"{}", timeout=self._timeout)
            return _models(self._url, found)

    async def close(self) -> None:
        await self._http.aclose()


def _call(url: str, request: Request) -> dict[str, Any]:
    endpoint = "generate_stream" if request.stream else "generate"
    return {
        "url": f"{url}/v2/models/{request.model}/{endpoint}",
        "content": generate_body(request),
        "headers": HEADERS,
    }


def _ready_path(model: str) -> str:
    return f"/v2/models/{model}/ready"


def _stats_path(model: str) -> str:
    return f"/v2/models/{model}/stats"


def _is_ready(url: str, response: httpx.Response) -> bool:
    """Triton answers its health endpoints with an empty body. Raises WrongPort for another server's answer.

    Triton's metrics port answers every GET with 200 and an empty body of metrics, whose type names a character set.
    """
    is_metrics = "charset" in response.headers.get("Content-Type", "")
    if response.status_code in (404, 405) or (response.status_code == 200 and (response.content or is_metrics)):
        raise is_not_triton(_address(url))
    return response.status_code == 200


def _stats(url: str, response: httpx.Response) -> Stats:
    if response.status_code != 200:
        raise _refused(url, response, response.content)
    if not response.content:
        raise is_not_triton(_address(url))
    try:
        (row,) = response.json()["model_stats"]
        counts = row["inference_stats"]
        cancelled = sum(int(each.get("cancel", {}).get("count", 0)) for each in row.get("response_stats", {}).values())
        return stats_of(row["name"], counts["success"], counts["queue"], int(counts["fail"]["count"]), cancelled)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnexpectedAnswer("the statistics are not in Triton's format") from None


def _models(url: str, response: httpx.Response) -> list[Model]:
    if response.status_code != 200:
        raise _refused(url, response, response.content)
    try:
        rows = response.json()
        return [
            Model(row["name"], str(row.get("version", "")), row.get("state") == "READY", row.get("reason", ""))
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnexpectedAnswer("the repository index is not in Triton's format") from None


def _address(url: str) -> str:
    return httpx.URL(url).netloc.decode("ascii")


def _refused(url: str, response: httpx.Response, body: bytes) -> KimiError:
    """The error for a status other than 200. A body that is not from Triton, such as a proxy's page, is not shown."""
    if response.status_code == 405:  # Triton's metrics port has no POST
        return is_not_triton(_address(url))
    retry_after = _seconds(response.headers.get("Retry-After", ""))
    documents = SseDecoder().feed(body) or [body]  # `generate_stream` refuses with an event
    try:
        message = json.loads(documents[0])["error"]
    except (ValueError, KeyError, TypeError):
        message = None
    if not isinstance(message, str):
        if response.status_code in (400, 404):  # Triton gives a reason with these
            return is_not_triton(_address(url))
        message = f"HTTP {response.status_code} without a reason"
    return refusal(message, status=response.status_code, retry_after=retry_after)


def _seconds(header: str) -> float | None:
    """Retry-After in seconds, None if it is a date: this client does not use dates."""
    return float(header) if header.isascii() and header.isdigit() else None


@contextmanager
def _kimi_errors(url: str, timeout: httpx.Timeout) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
        raise unreachable(url) from None
    except httpx.TimeoutException:
        raise timed_out(timeout.read) from None
    except httpx.RemoteProtocolError as error:
        # The gRPC port answers HTTP/1 with HTTP/2 frames, which httpx takes for a malformed first line.
        raise is_grpc(_address(url)) if str(error).startswith("illegal ") else lost() from None
    except httpx.RequestError:
        raise lost() from None
