"""A client that is given the wrong one of a server's ports says which URL is meant, at once and without a retry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from fake_triton import grpc_triton, script
from tests.support.http_server import respond, serving

from kimi_k2_client import AsyncClient, Client, WrongPort

Call = tuple[str, tuple[Any, ...]]
CALLS: list[Call] = [("chat", ("hi",)), ("models", ()), ("health", ()), ("stats", ()), ("wait_ready", (20,))]


def wrong(url: str, call: Call, *, is_async: bool) -> str:
    """The message of the error. The client must not sleep, which it would before another attempt."""
    name, arguments = call

    async def ask() -> None:
        async def never(_: float) -> None:
            raise AssertionError("retried")

        async with AsyncClient(url, timeout=10, sleep=never) as client:
            await getattr(client, name)(*arguments)

    def ask_blocking() -> None:
        with Client(url, timeout=10, sleep=lambda _: pytest.fail("retried")) as client:
            getattr(client, name)(*arguments)

    with pytest.raises(WrongPort) as caught:
        asyncio.run(ask()) if is_async else ask_blocking()
    assert caught.value.code == "wrong_port"
    return caught.value.detail


@contextmanager
def http_server(status: int, body: bytes, posts: tuple[int, bytes] | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, text = posts if posts and self.command == "POST" else (status, body)
            respond(self, code, text, "text/plain; charset=utf-8")

        do_GET = do_POST = answer  # noqa: N815

    with serving(Handler) as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_the_grpc_port_is_no_http_port(call: Call, is_async: bool) -> None:
    with grpc_triton(script([])) as address:
        assert f"Triton's gRPC port: use grpc://{address}" in wrong(f"http://{address}", call, is_async=is_async)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_an_http_port_is_no_grpc_port(call: Call, is_async: bool) -> None:
    with http_server(404, b"") as address:
        assert f"use http://{address}" in wrong(f"grpc://{address}", call, is_async=is_async)


OPENAI = b'{"error": {"message": "no such route", "type": "not_found_error"}}'


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_the_metrics_port_is_not_triton_s_http_port(call: Call, is_async: bool) -> None:
    """It answers every GET with 200 and nothing, and refuses every POST."""
    with http_server(200, b"", posts=(405, b'{"error":"Method Not Allowed"}')) as address:
        assert "is not Triton" in wrong(f"http://{address}", call, is_async=is_async)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("body", [b"", OPENAI, b"<html>"], ids=["metrics", "frontend", "page"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_another_http_server_is_not_triton(call: Call, body: bytes, is_async: bool) -> None:
    with http_server(404, body) as address:
        assert "is not Triton" in wrong(f"http://{address}", call, is_async=is_async)
