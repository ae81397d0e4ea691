"""Opens the transport for a URL. Only that transport is imported."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from kimi_k2_client.errors import KimiError, Unavailable, WrongPort
from kimi_k2_client.transport import AsyncTransport, ServerHealth, Transport

DEFAULT_URL = "http://127.0.0.1:8000"
SCHEMES = ("http", "https", "grpc", "grpcs")
DEFAULT_TIMEOUT = 600.0  # seconds of silence; for a whole answer of 32K tokens nothing arrives until it is complete
READY_INTERVAL = 0.25  # seconds between two checks
MAX_ROUNDS = 8  # of `run_tools`


def open_transport(url: str, timeout: float) -> Transport:
    """The transport for the URL's scheme. Raises ValueError without a known scheme, a host or a valid port."""
    scheme, address = _split(url)
    if scheme.startswith("http"):
        from kimi_k2_client.http_transport import HttpTransport

        return HttpTransport(url, timeout=timeout)
    from kimi_k2_client.grpc_transport import GrpcTransport

    return GrpcTransport(address, timeout=timeout, secure=scheme == "grpcs")


def open_async_transport(url: str, timeout: float) -> AsyncTransport:
    """The same as `open_transport`, for asyncio."""
    scheme, address = _split(url)
    if scheme.startswith("http"):
        from kimi_k2_client.http_transport import AsyncHttpTransport

        return AsyncHttpTransport(url, timeout=timeout)
    from kimi_k2_client.grpc_transport import AsyncGrpcTransport

    return AsyncGrpcTransport(address, timeout=timeout, secure=scheme == "grpcs")


def is_url(url: str, schemes: Collection[str]) -> bool:
    """Whether it has one of these schemes, a host, and a valid port or none."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # A port that is no number, a bracket that is not closed.
        return False


def _split(url: str) -> tuple[str, str]:
    if not is_url(url, SCHEMES):
        raise ValueError(f"{url!r} is not an http://, https://, grpc:// or grpcs:// URL with a host")
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def unhealthy(error: KimiError) -> ServerHealth:
    """The health of a server that could not be asked. Raises WrongPort: that is the caller's mistake."""
    if isinstance(error, WrongPort):
        raise error
    return ServerHealth(live=False, ready=False, model_ready=False, detail=error.detail)


def health_of(*, live: bool, ready: bool, model_ready: bool, model: str) -> ServerHealth:
    detail = "" if model_ready else f"{model} is loading, or its engine is being started again"
    return ServerHealth(live=live, ready=ready, model_ready=model_ready, detail=detail)


def not_ready(model: str, timeout: float) -> Unavailable:
    return Unavailable("unavailable", f"{model} was not ready within {timeout:g} s", status=None)
