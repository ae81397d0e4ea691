"""What is not for everybody: the ensemble's steps, and what the server's processes listen on and leave to be read."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2

from kimi_k2_client import Client
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.launch.command import UNSENDABLE
from tests.server.running import Server, shared_memory
from tests.server.test_chat import MESSAGES, whole
from tests.server.test_enforcement import LOOSE

NAME, _, VALUE = UNSENDABLE.partition(":")[2].partition("=")
FIRST, _, SECOND = NAME.partition(":")
CLOSED = ("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status", "/v2/trace/setting", "/v2/logging")
POSTPROCESS = "kimi_k2_postprocess"
NOBODY = 65534


def post(server: Server, context: Any, ids: Any, **more: Any) -> httpx.Response:
    body = {"request_context": context, "output_ids": ids, **more}
    return httpx.post(server.generate(POSTPROCESS), json=body, timeout=60)


def prepared(server: Server, **more: Any) -> str:
    """A context as the first step makes it."""
    found = whole(server, {"messages": json.dumps(MESSAGES), "stream": True, **more}, "kimi_k2_preprocess")
    return str(found["request_context"])


@pytest.mark.parametrize("context", ["", "u", "u\n{}", 'u\n{"stream": true}', "u tag\ntag {}", "x" * 1_000_000])
def test_a_forged_context_gets_one_plain_error(server: Server, context: str) -> None:
    answer = post(server, context, [65])
    assert answer.status_code == 400, answer.text
    assert "invalid_value: request_context: not made by this server" in answer.json()["error"]


def test_a_context_of_the_first_step_opens_one_answer(server: Server) -> None:
    context = prepared(server)
    assert post(server, context, [65]).status_code == 200
    assert post(server, context, [65]).status_code == 400
    assert post(server, context.split()[0], [65]).status_code == 400
    line = context.partition("\n")[0]
    assert post(server, line, [65], finish_reason="stop").json()["finish_reason"] == "stop"
    assert post(server, line, [65]).json()["error"].startswith("engine_lost")


@pytest.mark.parametrize("model", ["kimi_k2", "kimi_k2_preprocess", "kimi_k2_engine", POSTPROCESS])
@pytest.mark.parametrize("shape", [2**40, 2**62])
def test_a_shape_that_nobody_can_hold_hurts_nobody(server: Server, model: str, shape: int) -> None:
    tensor = {"name": "output_ids", "datatype": "INT32", "shape": [shape], "data": [1]}
    context = {"name": "request_context", "datatype": "BYTES", "shape": [1], "data": ["x"]}
    url = f"{server.url}/v2/models/{model}/infer"
    assert httpx.post(url, json={"inputs": [context, tensor]}, timeout=60).status_code == 501
    assert httpx.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200


def test_while_a_large_answer_is_checked_all_others_go_on(server: Server) -> None:
    vocabulary = Vocabulary.load(Path(server.ready["checkpoint"]))
    format_ = json.dumps({"type": "json_schema", "json_schema": {"name": "x", "schema": LOOSE}})
    document = json.dumps({"x": [f"{number:05}" for number in range(6_000)]})
    large = prepared(server, response_format=format_)
    # The first of them starts the worker.
    post(server, prepared(server, response_format=format_), vocabulary.encode("{}"), finish_reason="stop")
    other = prepared(server)
    post(server, other, [65])
    took: list[float] = []
    checked: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: checked.append(post(server, large, vocabulary.encode(document), finish_reason="stop"))
    )
    began = time.monotonic()
    thread.start()
    with httpx.Client() as client:
        while thread.is_alive():
            begin = time.monotonic()
            body = {"request_context": other.partition("\n")[0], "output_ids": [65]}
            assert client.post(server.generate(POSTPROCESS), json=body).status_code == 200
            took.append(time.monotonic() - begin)
            time.sleep(0.005)
    whole_time = time.monotonic() - began
    report = json.loads(checked[0].json()["enforcement"])
    print(f"checked in {whole_time:.2f} s: {str(report)[:200]}; {len(took)} others, the slowest {max(took):.3f} s")
    # On a busy machine a call takes what it takes, but never as long as the check.
    assert sorted(took)[len(took) // 2] < whole_time / 4


# How a parser may be brought to put the name together, or to drop what is between it and the value.
GLUE = ("", " ", "\t", "\r\n\t", "\r\n ", " \r\n\t", "\r\n\t\t", "\n\t", "\r", "\0", "\\")
SPELLED = sorted(
    {f"{NAME}:{glue}{VALUE}" for glue in GLUE}
    | {f"{FIRST}{glue}:{SECOND}: {VALUE}" for glue in GLUE}
    | {f"{FIRST}:{glue}{SECOND}: {VALUE}" for glue in GLUE}
    | {f"{FIRST}:{SECOND}{glue}: {VALUE}" for glue in GLUE}
    | {f"{FIRST}%3A{SECOND}: {VALUE}", f"{NAME}={VALUE}", f'"{NAME}": {VALUE}', f":{NAME}: {VALUE}"}
)


@pytest.mark.parametrize("path", CLOSED)
def test_no_header_opens_a_closed_interface_over_http(server: Server, path: str) -> None:
    def status(header: str) -> bytes:
        with socket.create_connection(("127.0.0.1", server.http), 5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n".encode())
            try:
                return connection.recv(64).partition(b"\r\n")[0].removeprefix(b"HTTP/1.1 ")[:3]
            except OSError:
                return b""

    assert status("") == status(f"{NAME}: {VALUE}\r\n") == b"403"
    found = {header: status(f"{header}\r\n") for header in SPELLED}
    # What is no header at all ends the connection.
    assert set(found.values()) <= {b"403", b"400", b""}, found
    assert httpx.get(f"{server.url}/v2/health/live", timeout=5).status_code == 200


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings", "SystemSharedMemoryStatus"])
@pytest.mark.parametrize("name", [b"", f"triton-grpc-protocol-{NAME}".encode(), NAME.encode()])
def test_no_header_opens_a_closed_interface_over_grpc(server: Server, method: str, name: bytes) -> None:
    headers = [(name, VALUE.encode())] if name else []
    answer = raw_grpc(server.grpc, method, service_pb2.LogSettingsRequest().SerializeToString(), headers)
    assert b"grpc-status\x010" not in answer
    assert b"restricted" in answer or b"Missing :method" in answer


def test_the_index_of_the_models_is_open_and_loading_is_not(server: Server) -> None:
    for url in (server.url, f"grpc://127.0.0.1:{server.grpc}"):
        with Client(url) as client:
            assert {model.name for model in client.models()} >= {"kimi_k2", "kimi_k2_engine"}
    for action in ("load", "unload"):
        assert httpx.post(f"{server.url}/v2/repository/models/kimi_k2/{action}", json={}).status_code == 503


def test_nothing_listens_beyond_loopback(server: Server) -> None:
    whole(server, {"messages": json.dumps(MESSAGES), "max_tokens": 2})
    listening = [
        (process.name(), connection.laddr)
        for process in server.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {server.http, server.grpc, server.metrics} <= {address.port for _, address in listening}
    outside = [each for each in listening if each[1].ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")]
    assert outside == []


def private(server: Server) -> Iterator[Path]:
    """What the server's processes keep for each other: shared memory, sockets, files."""
    processes = server.processes()
    yield from shared_memory(processes)
    pids = {process.pid for process in processes}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = Path(os.readlink(link))
            except OSError:
                continue
            if str(target).startswith(("/tmp/", "/dev/shm/", "/run/")) or target.name.startswith("tritonserver-"):
                if target.name == "context.key":
                    yield from target.parent.rglob("*")
                yield target


def test_what_the_processes_tell_each_other_is_for_no_other_user(server: Server) -> None:
    whole(server, {"messages": json.dumps(MESSAGES), "max_tokens": 2})
    found = {path for path in private(server) if path.exists()}
    assert any(str(path).startswith("/dev/shm/triton_") for path in found)
    assert any(path.name == "context.key" for path in found)
    assert {path: oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077} == {}
    if os.geteuid() == 0:
        assert readable_to_nobody(found) == []


def readable_to_nobody(paths: set[Path]) -> list[str]:
    """Opened in a child as another user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        opened = []
        for path in paths:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                opened.append(str(path))
            except OSError:
                pass
        os.write(writer, json.dumps(opened).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        opened = json.loads(stream.read())
    os.waitpid(child, 0)
    return list(opened)


def raw_grpc(port: int, method: str, message: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A call as HTTP/2 frames: every library refuses to send such headers."""
    call = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/" + method.encode()),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = b"".join(b"\0" + text(name) + text(value) for name, value in call + headers)
    data = b"\0" + struct.pack(">I", len(message)) + message
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(1)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
        connection.sendall(frame(0, 1, 1, data))
        answer = b""
        while b"grpc-status" not in answer:
            piece = connection.recv(4096)
            assert piece, "the connection was closed without a status"
            answer += piece
        return answer


def text(value: bytes) -> bytes:
    """A string of HPACK's, not compressed."""
    assert len(value) < 127
    return bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
