"""Under which names this server answers when only its own machine may ask and no key is needed.

A page in a browser on this machine can give its own name this machine's address and then ask as its own origin (DNS
rebinding). The browser still sends the page's name as `Host`, so a name that is not this machine's is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from kimi_k2_serving.frontend.errors import Misdirected


@dataclass(frozen=True, slots=True)
class Hosts:
    """`names` in lower case, without a dot at the end; loopback addresses are always among them."""

    names: frozenset[str]

    @classmethod
    def of(cls, *names: str) -> Hosts:
        return cls(frozenset(name.lower().removesuffix(".") for name in ("localhost", *names)))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises Misdirected unless there is exactly one Host and it is one of these."""
        given = [value for name, value in headers if name == b"host"]
        if len(given) != 1 or not self._known(given[0].decode("latin-1")):
            raise Misdirected("this server answers under this machine's names only; see --allowed-host")

    def _known(self, value: str) -> bool:
        host = _without_port(value)
        if host is None:
            return False
        return host in self.names or _is_loopback_address(host)


def is_loopback(host: str) -> bool:
    """Whether it names this machine to itself alone: an address, without brackets, or localhost."""
    return host.lower().removesuffix(".") == "localhost" or _is_loopback_address(host)


def _is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_port(value: str) -> str | None:
    """The host in lower case, without brackets and final dot; None for what is no host and port."""
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
