"""Checks the Host header where the server listens on loopback alone and needs no API key.

A web page can make its own domain resolve to this machine. A browser here then lets the page send requests to this
server as to its own origin (DNS rebinding). But the browser still sends the page's domain as `Host`, so names of other
machines are refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from kimi_k2_serving.frontend.errors import Misdirected


@dataclass(frozen=True, slots=True)
class Hosts:
    """The accepted names, in lower case and without a final dot. Loopback addresses are accepted, too."""

    names: frozenset[str]

    @classmethod
    def of(cls, *names: str) -> Hosts:
        return cls(frozenset(name.lower().removesuffix(".") for name in ("localhost", *names)))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises Misdirected unless there is exactly one Host header and it has an accepted name."""
        given = [value for name, value in headers if name == b"host"]
        if len(given) != 1 or not self._known(given[0].decode("latin-1")):
            raise Misdirected("the Host header is not this machine's name; use localhost, or set --allowed-host")

    def _known(self, value: str) -> bool:
        host = _without_port(value)
        if host is None:
            return False
        return host in self.names or _is_loopback_address(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: localhost, or an address without brackets."""
    return host.lower().removesuffix(".") == "localhost" or _is_loopback_address(host)


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_port(value: str) -> str | None:
    """The host in lower case, without brackets and final dot. None if `value` is not HOST or HOST:PORT."""
    if value.startswith("["):
        host, closed, port = value[1:].partition("]")
        if not closed or ":" not in host or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        host, _, port = value.partition(":")
        host = host.removesuffix(".")
    if not host or (port and not (port.isascii() and port.isdecimal() and len(port) <= 5)):
        return None
    return host.lower()
