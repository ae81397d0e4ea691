"""Finds the server that a command talks to: the named one, else this checkout's running one, else the default ports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from urllib.parse import urlsplit

from kimi_k2_cli.checkpoint import REPOSITORY
from kimi_k2_cli.given_url import checked_url
from kimi_k2_client.connect import SCHEMES
from kimi_k2_client.errors import KimiError, Unreachable, WrongPort
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.launch.layout import Layout
from kimi_k2_serving.launch.running import RunningServer, servers

HTTP_URL = "http://127.0.0.1:8000"
GRPC_URL = "grpc://127.0.0.1:8001"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
DEMO_TOKENS = 256  # the demo model often does not end by itself


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", help=f"Triton's HTTP or gRPC (default: the server of this checkout, else {HTTP_URL} or {GRPC_URL})"
    )
    parser.add_argument("--grpc", action="store_true", help="use gRPC")


def here() -> list[RunningServer]:
    """The servers of this checkout; none if this is an installed package."""
    return servers(Layout(REPOSITORY).run)


def server_url(url: str | None, *, grpc: bool, running: Sequence[RunningServer] = ()) -> str:
    """The URL with its scheme. Raises InvalidValue if no transport supports it, or for `--grpc` with an HTTP URL."""
    if url is None:
        if running:
            http, grpc_port, *_ = running[0].ports
            return f"grpc://127.0.0.1:{grpc_port}" if grpc else f"http://127.0.0.1:{http}"
        return GRPC_URL if grpc else HTTP_URL
    return checked_url(url, ("grpc", "grpcs") if grpc else SCHEMES, "--url")


def server_at(url: str, running: Sequence[RunningServer]) -> RunningServer | None:
    """The server of this checkout that listens there; None for any other server."""
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost"):
        return None
    return next((server for server in running if parts.port in server.ports), None)


def explained(error: KimiError | ServingError) -> str:
    """The error for a user, with what to do about a server of this machine that is not there."""
    is_missing = isinstance(error, Unreachable) and not isinstance(error, WrongPort)
    if is_missing and any(f"//{host}" in error.detail for host in LOOPBACK):
        return f"{error} `kimi-k2 serve` starts one"
    return str(error)


def default_tokens(url: str, running: Sequence[RunningServer]) -> int | None:
    """The default of `--max-tokens`: None is the rest of the context."""
    server = server_at(url, running)
    return DEMO_TOKENS if server is not None and server.demo else None
