"""A second node's network: a namespace of its own with one wire to this one, which can be cut. It needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# No machine has this address: frames to it arrive, and are dropped there without a word.
NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Network:
    """`near` and `far` are the ends of the wire, the far one in the namespace."""

    namespace: str
    near: str
    far: str
    subnet: str

    @property
    def ours(self) -> str:
        return f"{self.subnet}.1"

    @property
    def inside(self) -> tuple[str, ...]:
        """Runs a command in the namespace."""
        return ("ip", "netns", "exec", self.namespace)

    def unplug(self) -> None:
        """Both ends lose their carrier."""
        run("ip", "link", "set", self.near, "down")

    def plug_in(self) -> None:
        run("ip", "link", "set", self.near, "up")

    def lose(self) -> None:
        """Every packet is lost on its way, as in a switch that has died: nothing on either side says so."""
        forever = ("lladdr", NOBODY, "nud", "permanent")
        run("ip", "neighbour", "replace", f"{self.subnet}.2", "dev", self.near, *forever)
        run(*self.inside, "ip", "neighbour", "replace", self.ours, "dev", self.far, *forever)

    def find(self) -> None:
        run("ip", "neighbour", "delete", f"{self.subnet}.2", "dev", self.near)
        run(*self.inside, "ip", "neighbour", "delete", self.ours, "dev", self.far)


@contextmanager
def own_network() -> Iterator[Network | None]:
    """None where the kernel refuses a namespace to this user."""
    pid = os.getpid()
    network = Network(f"k2n{pid}", f"k2a{pid}", f"k2b{pid}", f"10.213.{pid % 250}")
    try:
        run("ip", "netns", "add", network.namespace)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        near, far, inside = network.near, network.far, (*network.inside, "ip")
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", network.namespace)
        run("ip", "address", "add", f"{network.ours}/30", "dev", near)
        run("ip", "link", "set", near, "up")
        run(*inside, "address", "add", f"{network.subnet}.2/30", "dev", far)
        run(*inside, "link", "set", far, "up")
        run(*inside, "link", "set", "lo", "up")
        yield network
    finally:
        run("ip", "netns", "delete", network.namespace)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
