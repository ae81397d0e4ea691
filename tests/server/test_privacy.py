"""What others on the same machine or network can reach of a running server: the announced ports, and nothing else."""

from __future__ import annotations

import os
import socket
import stat
import struct

import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2

from kimi_k2_client import Client
from kimi_k2_serving.launch.command import UNSENDABLE
from tests.server.running import Server, shared_memory

NOBODY = 65534
NAME, _, VALUE = UNSENDABLE.partition(":")[2].partition("=")
CLOSED = ("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/status", "/v2/trace/setting", "/v2/logging")


def test_only_the_servers_own_user_reads_what_lies_in_shared_memory(server: Server) -> None:
    entries = shared_memory(server.processes())
    assert any("triton_" in entry.name for entry in entries)
    assert [entry for entry in entries if entry.exists() and stat.S_IMODE(entry.stat().st_mode) & 0o077] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_opens_nothing_of_it(server: Server) -> None:
    entries = [entry for entry in shared_memory(server.processes()) if entry.exists()]
    child = os.fork()
    if child == 0:
        os.setuid(NOBODY)
        os._exit(sum(os.access(entry, os.R_OK) for entry in entries))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_listens_but_on_loopback(server: Server) -> None:
    addresses = {
        connection.laddr.ip
        for process in server.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert addresses


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("header", ["", f"{NAME}:{VALUE}\r\n", f"{NAME}: {VALUE}\r\n", f"{NAME}:\t{VALUE}\r\n"])
def test_no_header_opens_a_closed_interface_over_http(server: Server, path: str, header: str) -> None:
    with socket.create_connection(("127.0.0.1", server.http), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 403")


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
