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
from kimi_k2_client.errors import KimiError, UnexpectedAnswer, lost, refusal, timed_out, unreachable
from kimi_k2_client.request import Request, generate_body
from kimi_k2_client.sse import SseDecoder
from kimi_k2_client.transport import CONNECT_TIMEOUT, READY_TIMEOUT, Model

HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
LIMITS = httpx.Limits(max_connections=None)  # each stream needs a connection, and the server limits their number
INDEX_PATH = "/v2/repository/index"


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
                raise _refused(response, response.read())
            if not request.stream:
                yield decode_json(response.read())
                return
            decoder = SseDecoder()
            for chunk in response.iter_bytes():
                for data in decoder.feed(chunk):
                    yield decode_json(data)

    def is_ready(self, model: str) -> bool:
        with _kimi_errors(self._url, self._timeout):
            return self._http.get(self._url + _ready_path(model), timeout=READY_TIMEOUT).status_code == 200

    def models(self) -> list[Model]:
        with _kimi_errors(self._url, self._timeout):
            return _models(self._http.post(self._url + INDEX_PATH, content=b"{}", timeout=self._timeout))

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
                    raise _refused(response, await response.aread())
                if not request.stream:
                    yield decode_json(await response.aread())
                    return
                decoder = SseDecoder()
                async for chunk in response.aiter_bytes():
                    for data in decoder.feed(chunk):
                        yield decode_json(data)

    async def is_ready(self, model: str) -> bool:
        with _kimi_errors(self._url, self._timeout):
            response = await self._http.get(self._url + _ready_path(model), timeout=READY_TIMEOUT)
            return response.status_code == 200

    async def models(self) -> list[Model]:
        with _kimi_errors(self._url, self._timeout):
            return _models(await self._http.post(self._url + INDEX_PATH, content=b"{}", timeout=self._timeout))

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


def _models(response: httpx.Response) -> list[Model]:
    if response.status_code != 200:
        raise _refused(response, response.content)
    try:
        rows = response.json()
        return [
            Model(row["name"], str(row.get("version", "")), row.get("state") == "READY", row.get("reason", ""))
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnexpectedAnswer("the repository index is not in Triton's format") from None


def _refused(response: httpx.Response, body: bytes) -> KimiError:
    """The error for a status other than 200. A body that is not Triton's (a proxy's page) is not shown."""
    retry_after = _seconds(response.headers.get("Retry-After", ""))
    documents = SseDecoder().feed(body) or [body]  # `generate_stream` refuses with an event
    try:
        message = json.loads(documents[0])["error"]
    except (ValueError, KeyError, TypeError):
        message = None
    if not isinstance(message, str):
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
    except httpx.RequestError:
        raise lost() from None
