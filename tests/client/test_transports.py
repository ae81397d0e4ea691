"""What only one transport can get wrong: sockets, silence, proxies' pages, addresses."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from fake_triton import Failed, HttpTriton, Script, Step, grpc_triton, script
from peers import KINDS, NAMES, URL, Peer

from kimi_k2_client import (
    AsyncClient,
    Cancelled,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Retry,
    ServerFault,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    collect,
)
from kimi_k2_client.http_transport import HttpTransport

STREAMED: list[Step] = [{"text_output": "grüß 😀"}, {"finish_reason": "stop"}]


def http_client(handler: Any, **options: Any) -> Client:
    http = httpx.Client(transport=httpx.MockTransport(handler))
    return Client(transport=HttpTransport(URL, timeout=5, http=http), sleep=lambda _: None, **options)


@pytest.mark.parametrize("piece", range(1, 40))
def test_a_stream_is_the_same_in_pieces_of_any_size(piece: int) -> None:
    with http_client(HttpTriton(script(STREAMED), piece)) as client:
        assert collect(client.chat_stream("hi")).content == "grüß 😀"


def test_requests_go_to_tritons_endpoints() -> None:
    seen: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        if request.method == "GET":
            return httpx.Response(200)
        return httpx.Response(200, json={"text_output": "", "finish_reason": "stop"})

    with http_client(handler) as client:
        client.chat("hi")
        client.generate("hi")
        assert client.ready()
    assert seen == [
        ("POST", "/v2/models/kimi_k2/generate"),
        ("POST", "/v2/models/kimi_k2_engine/generate"),
        ("GET", "/v2/models/kimi_k2/ready"),
    ]


@pytest.mark.parametrize("answer", [b"<html>", b"3", b"[3]", b'[{"version": "1"}]'])
def test_an_index_of_another_shape_is_unexpected(answer: bytes) -> None:
    with http_client(lambda _: httpx.Response(200, content=answer)) as client, pytest.raises(UnexpectedAnswer):
        client.models()


def test_a_proxys_page_is_not_shown() -> None:
    with (
        http_client(lambda _: httpx.Response(502, text="<html>secret</html>")) as client,
        pytest.raises(ServerFault) as caught,
    ):
        client.chat("hi")
    assert str(caught.value) == "internal: HTTP 502 without a reason"
    assert caught.value.status == 502


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)])
def test_a_retry_after_header_is_read(header: str, seconds: float | None) -> None:
    refuse = httpx.Response(503, json={"error": "overloaded: later"}, headers={"Retry-After": header})
    with http_client(lambda _: refuse, retry=Retry(retries=0)) as client, pytest.raises(Unavailable) as caught:
        client.chat("hi")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"3", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_unexpected(content: bytes) -> None:
    with http_client(lambda _: httpx.Response(200, content=content)) as client, pytest.raises(UnexpectedAnswer):
        client.chat("hi")


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (httpx.ConnectError("x"), Unreachable),
        (httpx.ConnectTimeout("x"), Unreachable),
        (httpx.ReadTimeout("x"), DeadlineExceeded),
        (httpx.ReadError("x"), ConnectionLost),
        (httpx.RemoteProtocolError("x"), ConnectionLost),
    ],
)
def test_every_failure_of_httpx_has_its_error(failure: Exception, error: type[Exception]) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise failure

    with http_client(handler) as client:
        with pytest.raises(error) as caught:
            client.chat("hi")
        assert type(caught.value) is error
        assert not client.ready()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_unreachable_and_tried_again(scheme: str) -> None:
    slept: list[float] = []
    url = f"{scheme}://127.0.0.1:{free_port()}"
    with Client(url, timeout=5, sleep=slept.append, chance=lambda: 0.0) as client:
        with pytest.raises(Unreachable):
            client.chat("hi")
        assert not client.ready()
        with pytest.raises(Unreachable):
            client.models()
    assert slept == [0.125, 0.25]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_unreachable_for_asyncio_too(scheme: str) -> None:
    async def ask() -> None:
        async with AsyncClient(f"{scheme}://127.0.0.1:{free_port()}", timeout=5, retry=Retry(retries=0)) as client:
            with pytest.raises(Unreachable):
                await client.chat("hi")
            assert not await client.ready()
            with pytest.raises(Unreachable):
                await client.models()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Unavailable),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerFault),
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("is_async", [False, True])
def test_every_status_of_a_failed_call_has_its_error(
    is_async: bool, status: grpc.StatusCode, error: type[Exception]
) -> None:
    peer = Peer("grpc", is_async, retry=Retry(retries=0))
    with pytest.raises(error) as caught:
        peer.call(script([Failed(status)]), "chat", "hi")
    assert type(caught.value) is error


@pytest.mark.parametrize("is_async", [False, True])
def test_text_that_is_no_utf8_is_unexpected(is_async: bool) -> None:
    with pytest.raises(UnexpectedAnswer):
        Peer("grpc", is_async).call(script([{"text_output": "\udcff"}]), "chat", "hi")


def test_a_silent_server_is_given_up_on(silent: int) -> None:
    with Client(f"http://127.0.0.1:{silent}", timeout=0.2) as client, pytest.raises(DeadlineExceeded):
        client.chat("hi")


@pytest.mark.parametrize(("transport", "is_async"), KINDS[2:], ids=NAMES[2:])
def test_a_silent_model_is_given_up_on(transport: str, is_async: bool) -> None:
    release = threading.Event()

    class Silent(Script):
        def next(self, model: str, inputs: dict[str, Any]) -> Any:
            release.wait(20)
            return []

    try:
        with pytest.raises(DeadlineExceeded):
            Peer(transport, is_async, timeout=0.3).call(Silent([[]]), "chat_stream", "hi", take=1)
    finally:
        release.set()


def test_one_client_serves_many_threads_over_grpc() -> None:
    contents: list[str] = []
    with grpc_triton(script(STREAMED)) as address, Client(f"grpc://{address}", timeout=20) as client:
        threads = [threading.Thread(target=lambda: contents.append(client.chat("hi").content)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.chat("hi").content == "grüß 😀"
    assert contents == ["grüß 😀"] * 6


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://x",
        "http://",
        "grpc:8001",
        "",
        "http://h:abc",
        "grpc://h:99999",
        "http://h:0",
        "http://[::1",
    ],
)
def test_a_url_that_no_transport_speaks_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="grpc://"):
        Client(url)


def test_what_can_not_be_sent_is_refused_before_anything_is_sent() -> None:
    wanted = script(STREAMED)
    with http_client(HttpTriton(wanted)) as client, pytest.raises(InvalidRequest):
        client.chat("hi", max_tokens=2**40)
    assert wanted.asked == []


def test_the_error_of_a_stream_comes_with_its_first_event() -> None:
    body = json.dumps({"error": "invalid_value: top_p: no"})
    with http_client(lambda _: httpx.Response(400, text=f"data: {body}\n\n")) as client:
        stream = client.chat_stream("hi")
        with pytest.raises(InvalidRequest, match="top_p"):
            next(stream)
        assert list(stream) == []


def test_an_index_that_is_refused_is_the_refusal() -> None:
    with http_client(lambda _: httpx.Response(404, json={"error": "not_found: no"})) as client, pytest.raises(NotFound):
        client.models()
