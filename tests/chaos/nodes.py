"""What happens to an engine over two nodes: the second node is `kimi-k2 worker`, in a network namespace of its own.

Where this user may not create one, both nodes are on loopback, and no network is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from tests.chaos.load import WHOLE, Load
from tests.chaos.losses import ERROR_SECONDS, lost_since, serves_again
from tests.chaos.network import Network, own_network
from tests.chaos.row import Row
from tests.server.running import ROOT, Server, environment, free_ports, running, titles

PRESET = "demo-2-nodes"
WIDTH, TOKENS = 8, 150
# Silence is noticed after NODE_SILENCE_SECONDS; the promise has five seconds more.
CUT_SECONDS = 35.0
LOG = ROOT / ".cache" / "logs" / "chaos-worker.log"
# Ranks that see one /dev/shm believe to be on one machine.
OWN_MEMORY = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
# How long the network stays cut.
CUT = 40.0
# From the moment that both nodes are there, beside the start's own time.
RECOVERY_SECONDS = 5.0
# How a request may end that meets a death.
CLEAN = frozenset({WHOLE, "engine_lost", "engine_unavailable"})


@dataclass(slots=True)
class SecondNode:
    """`network` is None on loopback. `address`: of rank 0."""

    address: str
    network: Network | None = None
    worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = str(free_ports(1)[0])
        command = [sys.executable, "-m", "kimi_k2_cli.main", "worker", "--preset", PRESET, "--node-rank", "1"]
        LOG.parent.mkdir(parents=True, exist_ok=True)
        prefix = (*self.network.inside, *OWN_MEMORY) if self.network else ()
        with LOG.open("ab") as log:
            self.worker = subprocess.Popen(
                [*prefix, *command, "--health-port", port],
                env=environment() | self.variables(self.network.far if self.network else "lo"),
                stdout=log,
                stderr=log,
            )

    @property
    def of_rank_0(self) -> dict[str, str]:
        """What the environment of rank 0's server must say."""
        return self.variables(self.network.near if self.network else "lo")

    def variables(self, interface: str) -> dict[str, str]:
        return {"KIMI_K2_DIST_INIT_ADDR": self.address, "GLOO_SOCKET_IFNAME": interface}

    def processes(self) -> list[psutil.Process]:
        assert self.worker is not None
        return psutil.Process(self.worker.pid).children(recursive=True)

    def named(self, title: str) -> psutil.Process:
        (found,) = [each for each in self.processes() if title in titles(each)]
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """The signal, and the exit code; None if it did not end within seconds."""
        assert self.worker is not None
        self.worker.send_signal(number)
        code = self.code(10)
        self.end()
        return code

    def code(self, seconds: float) -> int | None:
        """The exit code; None if it does not end within these seconds."""
        assert self.worker is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.worker.wait(seconds)
        return None

    def end(self) -> None:
        """Nothing is left of the node."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()


@contextmanager
def second_node() -> Iterator[SecondNode]:
    # The meeting has a hundred ports; those of a namespace's address belong to nobody else.
    with own_network() as network:
        yield SecondNode(f"{network.ours}:20000" if network else f"127.0.0.1:{free_ports(1)[0]}", network)


@contextmanager
def two_nodes(*flags: str) -> Iterator[tuple[Server, SecondNode]]:
    with second_node() as node:
        node.start()
        try:
            with running("--preset", PRESET, *flags, **node.of_rank_0) as server:
                yield server, node
        finally:
            if node.worker is not None and node.worker.poll() is None:
                node.stop()


async def rows(server: Server, node: SecondNode, *, short: bool, wanted: Callable[[str], bool]) -> AsyncIterator[Row]:
    """Those whose name is `wanted`."""
    scheduler, host = "sglang::scheduler", "sglang::host"
    deeds: dict[str, tuple[bool, Callable[[], None]]] = {
        "SIGKILL rank 1's scheduler": (True, lambda: kill(node.named(scheduler))),
        "SIGKILL rank 1's host": (False, lambda: kill(node.named(host))),
        "SIGTERM the worker, and start another": (False, lambda: replace(node)),
        "SIGKILL the worker, and start another": (False, lambda: replace(node, signal.SIGKILL)),
        "SIGKILL rank 0's scheduler, so that both start again": (False, lambda: kill(server.named(scheduler))),
    }
    for name, (always, deed) in deeds.items():
        if wanted(name) and (always or not short):
            yield await lose(server, node, name, deed)
    for name, cut, mend in cuts(node.network):
        if wanted(name) and not short:
            yield await lose_the_network(server, node, name, cut, mend)
    yield await leave(server, node)


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def replace(node: SecondNode, number: signal.Signals = signal.SIGTERM) -> None:
    code = node.stop(number)
    assert code == (0 if number is signal.SIGTERM else -number), f"the worker ended with {code}"
    node.start()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def lose(
    server: Server,
    node: SecondNode,
    name: str,
    do: Callable[[], None],
    *,
    notice: float = ERROR_SECONDS,
    away: float = 0.0,
) -> Row:
    """Do it under load, and hold every request and the next start to their promises. `notice`: within which seconds it
    must be noticed. `away`: for how long no start is possible.
    """
    before = inspecting.look(server)
    theirs = node.processes()
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
    if (more := len(node.processes()) - len(theirs)) > 0:
        leaks = f"{leaks}, {more} processes of rank 1"
    if old := alive(theirs):
        leaks = f"{leaks}, of rank 1 before: {', '.join(map(titles, old))}"
    start = inspecting.last_start(server)
    kinds = {each.kind for each in load.outcomes}
    row = Row(
        f"two nodes: {name}",
        1,
        load.counted(since=moment),
        f"{len(lost)} of {in_flight} in flight lost, last after {late:.2f} s; "
        f"served again after {again:.1f} s, of them {start:.1f} s to start",
        leaks=leaks,
    )
    row.expect(0 < late < notice, f"errors must come within {notice:g} s")
    row.expect(again < max(late, away) + start + RECOVERY_SECONDS, "it must serve again within its start time and 5 s")
    row.expect(len(lost) == in_flight, "every request in flight must be lost, once")
    row.expect(kinds <= CLEAN, f"every request must end once, in one of these ways: {', '.join(sorted(CLEAN))}")
    row.expect(leaks == "none", "nothing may be left")
    return row


def cuts(network: Network | None) -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
    """How the network is cut, and mended."""
    if network is None:
        return []
    return [
        (f"the cable is pulled for {CUT:.0f} s", network.unplug, network.plug_in),
        (f"every packet is lost for {CUT:.0f} s", network.lose, network.find),
    ]


async def lose_the_network(
    server: Server, node: SecondNode, name: str, cut: Callable[[], None], mend: Callable[[], None]
) -> Row:
    """Nothing passes between the nodes for a while: no end of a connection, no error."""

    def go() -> None:
        cut()
        time.sleep(CUT)
        mend()

    # It is served again a start after the network is back.
    return await lose(server, node, name, go, notice=CUT_SECONDS, away=CUT)


async def leave(server: Server, node: SecondNode) -> Row:
    """The end of a server whose other node goes first: nothing is left on either."""
    processes = [*server.processes(), *node.processes()]
    begin = time.monotonic()
    code = await asyncio.to_thread(node.stop)
    theirs = time.monotonic() - begin
    ours = await asyncio.to_thread(server.stop)
    left = alive(processes)
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
