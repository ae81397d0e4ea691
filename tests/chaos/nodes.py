"""What happens to an engine over two nodes: the second node is `kimi-k2 worker`, in a network namespace of its own.

Where this user may not create one, both nodes are on loopback, and no network is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import BAD, Load
from tests.chaos.losses import ERROR_SECONDS, TURNS_SECONDS, lost_since, serves_again
from tests.chaos.row import Row
from tests.server.running import ROOT, Server, environment, free_ports, running, titles

PRESET = "demo-2-nodes"
WIDTH, TOKENS = 8, 150
# Silence is noticed after NODE_SILENCE_SECONDS; the promise has five seconds more.
CUT_SECONDS = 35.0
# Ranks that see one /dev/shm believe to be on one machine.
OWN_MEMORY = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
# How long the network stays cut.
CUT = 40.0
CUT_NAME = f"the network is cut for {CUT:.0f} s"


@dataclass(slots=True)
class SecondNode:
    """`prefix` runs a command on it. `link` is rank 0's end of the network, "" on loopback."""

    address: str
    interface: str
    far_interface: str
    prefix: tuple[str, ...] = ()
    link: str = ""
    worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = str(free_ports(1)[0])
        command = [sys.executable, "-m", "kimi_k2_cli.main", "worker", "--preset", PRESET, "--node-rank", "1"]
        log = (ROOT / ".cache" / "logs" / "chaos-worker.log").open("ab")
        with log:
            self.worker = subprocess.Popen(
                [*self.prefix, *command, "--health-port", port],
                env=environment() | self.variables(self.far_interface),
                stdout=log,
                stderr=log,
            )

    def variables(self, interface: str) -> dict[str, str]:
        return {"KIMI_K2_DIST_INIT_ADDR": self.address, "GLOO_SOCKET_IFNAME": interface}

    def processes(self) -> list[psutil.Process]:
        assert self.worker is not None
        return psutil.Process(self.worker.pid).children(recursive=True)

    def named(self, title: str) -> psutil.Process:
        (found,) = [each for each in self.processes() if title in titles(each)]
        return found

    def switch(self, state: str) -> None:
        """`down` cuts the network, `up` mends it."""
        ip("link", "set", self.link, state)

    def stop(self) -> int | None:
        """SIGTERM, and the exit code; None if it did not end within seconds."""
        assert self.worker is not None
        self.worker.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.worker.wait(10)
        self.worker.kill()
        self.worker.wait()
        return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def second_node() -> Iterator[SecondNode]:
    """A namespace with one wire to this one; loopback where the kernel refuses it."""
    # Its meeting has a hundred ports; those of a namespace's address belong to nobody else.
    name = f"k2n{os.getpid()}"
    near, far, subnet = f"k2a{os.getpid()}", f"k2b{os.getpid()}", f"10.213.{os.getpid() % 250}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        yield SecondNode(f"127.0.0.1:{free_ports(1)[0]}", "lo", "lo")
        return
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        ip("address", "add", f"{subnet}.1/30", "dev", near)
        ip("link", "set", near, "up")
        inside = ("netns", "exec", name, "ip")
        ip(*inside, "address", "add", f"{subnet}.2/30", "dev", far)
        ip(*inside, "link", "set", far, "up")
        ip(*inside, "link", "set", "lo", "up")
        yield SecondNode(f"{subnet}.1:20000", near, far, ("ip", "netns", "exec", name, *OWN_MEMORY), near)
    finally:
        ip("netns", "delete", name)


@contextmanager
def two_nodes(*flags: str) -> Iterator[tuple[Server, SecondNode]]:
    with second_node() as node:
        node.start()
        try:
            with running("--preset", PRESET, *flags, **node.variables(node.interface)) as server:
                yield server, node
        finally:
            if node.worker is not None and node.worker.poll() is None:
                node.stop()


async def rows(server: Server, node: SecondNode, *, short: bool, words: str) -> AsyncIterator[Row]:
    """Those whose name holds these words."""
    scheduler, host = "sglang::scheduler", "sglang::host"
    deeds: dict[str, tuple[bool, Callable[[], None]]] = {
        "SIGKILL rank 1's scheduler": (True, lambda: kill(node.named(scheduler))),
        "SIGKILL rank 1's host": (False, lambda: kill(node.named(host))),
        "SIGTERM the worker, and start another": (False, lambda: replace(node)),
        "SIGKILL rank 0's scheduler, so that both start again": (False, lambda: kill(server.named(scheduler))),
    }
    for name, (always, deed) in deeds.items():
        if words in name and (always or not short):
            yield await lose(server, node, name, deed)
    if node.link and not short and words in CUT_NAME:
        yield await cut(server, node)
    yield await leave(server, node)


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def replace(node: SecondNode) -> None:
    assert node.stop() == 0, "a stopped worker ends with 0"
    node.start()


async def lose(
    server: Server, node: SecondNode, name: str, do: Callable[[], None], *, notice: float = ERROR_SECONDS
) -> Row:
    """Do it under load, and hold every request and the next start to their promises."""
    before = inspecting.look(server)
    theirs = len(node.processes())
    async with Load(server.url, server.grpc, width=WIDTH, tokens=TOKENS) as load:
        await asyncio.sleep(3)
        moment, in_flight = time.monotonic(), load.flying
        await asyncio.to_thread(do)
        again = await serves_again(server, moment)
        await asyncio.sleep(1)
        await load.stop()
    lost, late = lost_since(load, moment)
    await inspecting.idle(server)
    leaks = (await inspecting.settled(server, before)).leaks_since(before)
    if (more := len(node.processes()) - theirs) > 0:
        leaks = f"{leaks}, {more} processes of rank 1"
    start = inspecting.last_start(server)
    row = Row(
        f"two nodes: {name}",
        1,
        load.counted(since=moment),
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; "
        f"served again after {again:.1f} s, of them {start:.1f} s to start",
        leaks=leaks,
    )
    row.expect(0 < late < notice, f"errors must come within {notice:g} s")
    row.expect(
        again < late + start + 5 + TURNS_SECONDS, "it must serve again within its start time, 5 s and the turns'"
    )
    row.expect(not load.counted()[BAD], "every request must end once")
    row.expect(leaks == "none", "nothing may be left")
    return row


async def cut(server: Server, node: SecondNode) -> Row:
    """Nothing passes between the nodes for a while: no end of a connection, no error."""

    def go() -> None:
        node.switch("down")
        time.sleep(CUT)
        node.switch("up")

    # It is served again a start after the network is back.
    return await lose(server, node, CUT_NAME, go, notice=CUT_SECONDS)


async def leave(server: Server, node: SecondNode) -> Row:
    """The end of a server whose other node goes first: nothing is left on either."""
    processes = [*server.processes(), *node.processes()]
    begin = time.monotonic()
    code = await asyncio.to_thread(node.stop)
    theirs = time.monotonic() - begin
    ours = await asyncio.to_thread(server.stop)
    left = [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    row = Row(
        "two nodes: SIGTERM both",
        1,
        Counter(),
        f"the worker ended with {code} after {theirs:.1f} s, the server after {ours:.1f} s",
        leaks=", ".join(titles(each) for each in left) or "none",
    )
    row.expect(code == 0 and theirs < 5, "SIGTERM must end a worker in seconds, with 0")
    row.expect(not left, "no process may be left")
    return row
