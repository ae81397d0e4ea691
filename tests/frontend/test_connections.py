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
import pytest

from kimi_k2_serving.frontend import connections
from tests.frontend.asking import chat
from tests.frontend.test_process import KEY, SCRIPTED, free_port

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
            deadline = time.monotonic() + 30
            while True:
                with suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health/live").status_code == 200:
                        break
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
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


def test_connections_without_keys_are_bounded_too(tmp_path: Path) -> None:
    with limited(tmp_path) as (url, _), ExitStack() as stack:
        connect(stack, url, 3 * FEW, b"")
        assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200
        assert httpx.post(f"{url}/v1/chat/completions", json=chat("say ab"), timeout=20).status_code == 200


def test_being_out_of_descriptors_is_said_once_and_passes(tmp_path: Path) -> None:
    """The bound is switched off: accept itself fails."""
    first = "import kimi_k2_serving.frontend.connections as c; c.most = lambda: 10**6"
    with limited(tmp_path, first=first) as (url, log), ExitStack() as stack:
        connect(stack, url, 2 * FEW, b"")
        time.sleep(3)
        assert log.read_text().count("no descriptor is left") == 1
        stack.close()
        assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200


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
