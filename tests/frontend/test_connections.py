"""Connections under bounds, at a process with few descriptors."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from kimi_k2_serving.frontend import connections
from tests.frontend.asking import chat
from tests.frontend.test_server import KEY, SCRIPTED, free_port, wait_until_live

FEW = 160
LIMITED = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW}, {FEW})); "


@contextmanager
def limited(tmp_path: Path, *flags: str, first: str = "") -> Iterator[tuple[str, Path]]:
    """The scripted frontend with FEW descriptors; its address and its log."""
    port, log = free_port(), tmp_path / "log"
    code = f"{LIMITED}{first}\nsys.argv[0] = 'x'\nrunpy.run_module('{SCRIPTED}', run_name='__main__')"
    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, "-c", code, "--port", str(port), *flags], stderr=output) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_live(process, url)
            yield url, log
        finally:
            process.kill()


def connect(stack: ExitStack, url: str, count: int, head: bytes) -> list[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    found = [stack.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(count)]
    for each in found:
        with suppress(OSError):
            each.sendall(head)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_idle_connections_leave_room_for_who_has_a_key(tmp_path: Path, head: bytes) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    with limited(tmp_path, "--api-key-file", str(keys)) as (url, log), ExitStack() as stack:
        connect(stack, url, 3 * FEW, head)
        for _ in range(20):
            answer = httpx.post(
                f"{url}/v1/chat/completions", json=chat("say ab"), headers={"x-api-key": KEY}, timeout=20
            )
            assert answer.status_code == 200
        assert log.read_text().count("too many connections") == 1


@pytest.mark.slow
def test_connections_without_keys_are_bounded_too(tmp_path: Path) -> None:
    with limited(tmp_path) as (url, _), ExitStack() as stack:
        connect(stack, url, 3 * FEW, b"")
        assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200
        assert httpx.post(f"{url}/v1/chat/completions", json=chat("say ab"), timeout=20).status_code == 200


@pytest.mark.slow
def test_being_out_of_descriptors_is_said_once_and_passes(tmp_path: Path) -> None:
    """The bound is switched off: accept itself fails."""
    first = "import kimi_k2_serving.frontend.connections as c; c.most = lambda: 10**6"
    with limited(tmp_path, first=first) as (url, log), ExitStack() as stack:
        connect(stack, url, 2 * FEW, b"")
        time.sleep(3)
        assert log.read_text().count("no descriptor is left") == 1
        stack.close()
        assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200


@pytest.mark.slow
def test_a_head_that_does_not_come_ends_its_connection(tmp_path: Path) -> None:
    first = (
        "import dataclasses, kimi_k2_serving.frontend.connections as c; "
        "c.HEAD_SECONDS = dataclasses.replace(c.HEAD_SECONDS, value=1)"
    )
    with limited(tmp_path, first=first) as (url, _), ExitStack() as stack:
        (silent,) = connect(stack, url, 1, b"")
        (slow,) = connect(stack, url, 1, b"GET /health/live HTTP/1.1\r\n")
        (used,) = connect(stack, url, 1, b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += used.recv(1 << 16)
        used.sendall(b"GET /health/live HT")
        deadline = time.monotonic() + 20
        for _ in range(10):
            with suppress(OSError):
                slow.sendall(b"x")
            time.sleep(0.1)
        for each in (silent, slow, used):
            each.settimeout(deadline - time.monotonic())
            with suppress(ConnectionResetError):
                assert each.recv(1 << 16) == b""


@pytest.mark.slow
def test_a_connection_that_asks_no_more_is_closed_and_one_that_does_is_kept(tmp_path: Path) -> None:
    first = "import dataclasses, kimi_k2_serving.core.limits as l; "
    first += "l.IDLE_SECONDS = dataclasses.replace(l.IDLE_SECONDS, value=2)"
    with limited(tmp_path, first=first) as (url, _), ExitStack() as stack:
        idle, busy = connect(stack, url, 2, b"")
        assert ask(idle) == 200
        begin = time.monotonic()
        while time.monotonic() - begin < 3:
            assert ask(busy) == 200
            time.sleep(0.5)
        idle.settimeout(5)
        assert idle.recv(1) == b""
        assert ask(busy) == 200


def ask(sock: socket.socket, *headers: str) -> int:
    """The status of one more request on a connection."""
    lines = ["GET /v1/models HTTP/1.1", "host: localhost", *headers, "", ""]
    sock.settimeout(20)
    sock.sendall("\r\n".join(lines).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(1 << 16)
        assert piece, "the connection was closed"
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < length:
        body += sock.recv(1 << 16)
    return int(head.split()[1])


def taken(url: str) -> int:
    """How many connections the server has."""
    port = int(url.rpartition(":")[2])
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
        for child in psutil.Process().children()
        for each in child.net_connections("tcp")
    )


def test_descriptors_are_kept_back_for_those_who_have_a_key(tmp_path: Path) -> None:
    """More than half of them may have shown a key, and none of those is closed for strangers, however many come."""
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    places = FEW - connections.RESERVED
    with limited(tmp_path, "--api-key-file", str(keys)) as (url, _), ExitStack() as stack:
        known: list[socket.socket] = []
        while len(known) < 3 * places // 4:
            known += connect(stack, url, 1, b"")
            assert ask(known[-1], f"x-api-key: {KEY}") == 200
        connect(stack, url, 3 * FEW, b"")
        deadline = time.monotonic() + 20
        while taken(url) > places:
            # For a moment there are those that it has just taken and is about to close.
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert [ask(each, f"x-api-key: {KEY}") for each in known] == [200] * len(known)


def test_a_public_route_reads_no_body(tmp_path: Path) -> None:
    with limited(tmp_path) as (url, _), ExitStack() as stack:
        head = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n"
        (sock,) = connect(stack, url, 1, head)
        answer = b""
        while piece := sock.recv(1 << 16):
            answer += piece
        assert b" 200 " in answer
        assert b"connection: close" in answer


def test_the_soft_limit_is_raised_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
    connections.raise_limit()
    assert asked == [(4096, 4096)]
