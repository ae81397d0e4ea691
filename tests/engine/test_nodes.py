"""An engine over two nodes: rank 0's supervisor and a worker over real processes and TCP, with a scripted host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable, InvalidValue
from kimi_k2_serving.engine import host_process
from kimi_k2_serving.engine.config import Restart
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.nodes import meeting as meeting_module
from kimi_k2_serving.engine.nodes import messages
from kimi_k2_serving.engine.nodes import worker as worker_module
from kimi_k2_serving.engine.nodes.meeting import Group, Meeting, split_address
from kimi_k2_serving.engine.nodes.worker import Exit, NodeWorker
from kimi_k2_serving.engine.port import EngineState, Generation
from kimi_k2_serving.engine.supervisor import SupervisedEngine

HOST = Path(__file__).with_name("scripted_host.py")
HELLO = messages.Hello(1, "h200-16", "versions", "hash")


class Nodes:
    """Rank 0's engine, and a worker that reaches it through `road`, which can be cut."""

    def __init__(self, runtime: Path, road: Road, restart: Restart) -> None:
        self.runtime, self.road = runtime, road
        self.note = runtime / "arguments.json"
        self.meeting = Meeting(Group(road.far, 2, HELLO.preset, HELLO.software, HELLO.checkpoint, restart))
        self.hosts: list[HostProcess] = []
        self.engine = SupervisedEngine(
            self.spawn,
            {"step": 0.01, "tp_size": 2},
            start_timeout=20,
            stall_seconds=5,
            silent_seconds=9,
            nodes=self.meeting,
            restart=restart,
        )
        self.ranks: list[HostProcess] = []
        self.worker = self.new_worker()
        self.working = asyncio.ensure_future(self.worker.run())

    def new_worker(self, hello: messages.Hello = HELLO) -> NodeWorker:
        own = {"node_rank": hello.node_rank, "note": str(self.note), "worker": True}
        return NodeWorker(self.road.near, hello, own, self.spawn_rank)

    async def spawn(self) -> HostProcess:
        self.hosts.append(await host_process.spawn([sys.executable, str(HOST)], os.environ, self.runtime))
        return self.hosts[-1]

    async def spawn_rank(self, address: str) -> HostProcess:
        assert address == self.meeting.local_address == "127.0.0.1"
        self.ranks.append(await host_process.spawn([sys.executable, str(HOST)], os.environ, self.runtime))
        return self.ranks[-1]

    async def generate(self, uid: str, tokens: int) -> int:
        asked = Generation(uid, [10], {"max_new_tokens": tokens}, stream=True)
        return sum([len(chunk.ids) async for chunk in self.engine.generate(asked)])

    async def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "did not happen in time"
            await asyncio.sleep(0.01)

    async def serves_again(self) -> None:
        await self.until(lambda: self.engine.state is EngineState.READY)
        assert await self.generate("again", 3) == 3
        await self.until(lambda: self.worker.trouble == "")


class Road:
    """A TCP proxy. While `cut`, it passes nothing on, closes nothing and takes no new connection, as a cut network."""

    def __init__(self, far: int) -> None:
        self.far = f"127.0.0.1:{far}"
        self.cut = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.near = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.cut:
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*split_address(self.far))
        except OSError:
            writer.close()
            return
        self._writers.append(far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, target))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                if not self.cut:
                    target.write(data)
        except OSError:
            pass
        if not self.cut:
            target.close()

    def close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()


def gone(host: HostProcess) -> bool:
    return not Path(f"/proc/{host.process.pid}").exists()


def free_port() -> int:
    """One with a hundred above it that may be given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65_000)


@asynccontextmanager
async def two_nodes(runtime: Path, restart: Restart = Restart.IN_PLACE) -> AsyncIterator[Nodes]:
    road = Road(free_port())
    await road.open()
    nodes = Nodes(runtime, road, restart)
    try:
        await nodes.engine.start()
        await nodes.until(lambda: nodes.worker.trouble == "")
        yield nodes
    finally:
        await nodes.engine.stop()
        nodes.working.cancel()
        await asyncio.gather(nodes.working, return_exceptions=True)
        road.close()
        for host in [*nodes.hosts, *nodes.ranks]:
            assert gone(host), "a process is left"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts after a second, not after 30."""
    for module in (meeting_module, worker_module):
        monkeypatch.setattr(module, "NODE_SILENCE_SECONDS", replace(module.NODE_SILENCE_SECONDS, value=1))
    monkeypatch.setattr(messages, "PULSE_SECONDS", 0.1)


def test_the_worker_runs_rank_0s_arguments_with_its_own_rank(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            assert await nodes.generate("a", 5) == 5
            given = json.loads(nodes.note.read_text())
            assert (given["tp_size"], given["step"], given["node_rank"]) == (2, 0.01, 1)
            host, port = split_address(given["dist_init_addr"])
            assert host == "127.0.0.1"
            assert port - split_address(nodes.road.far)[1] in range(10, 100, 10)

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["rank 0", "rank 1", "a process of rank 1"])
def test_a_death_on_either_node_ends_every_request_at_once_and_both_start_again(tmp_path: Path, whose: str) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            flight = asyncio.create_task(nodes.generate("a", 10_000))
            await asyncio.sleep(0.2)
            first = json.loads(nodes.note.read_text())["dist_init_addr"]
            begin = time.monotonic()
            if whose == "rank 0":
                nodes.hosts[0].process.send_signal(signal.SIGKILL)
            elif whose == "rank 1":
                nodes.ranks[0].process.send_signal(signal.SIGKILL)
            else:
                os.kill(nodes.ranks[0]._workers[0], signal.SIGKILL)
            with pytest.raises(EngineLost):
                await flight
            assert time.monotonic() - begin < 10
            await nodes.serves_again()
            assert len(nodes.ranks) == len(nodes.hosts) == 2
            assert json.loads(nodes.note.read_text())["dist_init_addr"] != first

    asyncio.run(scenario())


@pytest.mark.slow
def test_rank_0_hears_of_a_death_before_the_rank_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            (rank,) = nodes.ranks
            end = rank.end

            async def slowly() -> None:
                await asyncio.sleep(5)
                await end()

            monkeypatch.setattr(rank, "end", slowly)
            flight = asyncio.create_task(nodes.generate("a", 10_000))
            await asyncio.sleep(0.2)
            begin = time.monotonic()
            rank.process.send_signal(signal.SIGKILL)
            with pytest.raises(EngineLost):
                await flight
            assert time.monotonic() - begin < 5
            await nodes.serves_again()
            assert time.monotonic() - begin > 5, "and starts again only after that"

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_a_cut_network_is_noticed_on_both_sides_and_mended_without_help(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            flight = asyncio.create_task(nodes.generate("a", 10_000))
            await asyncio.sleep(0.2)
            nodes.road.cut = True
            begin = time.monotonic()
            with pytest.raises(EngineLost):
                await flight
            assert 0.5 < time.monotonic() - begin < 10
            # The worker ends its rank by itself, without a word from rank 0.
            await nodes.until(lambda: gone(nodes.ranks[0]))
            await nodes.until(lambda: nodes.worker.trouble != "")
            with pytest.raises(EngineUnavailable):
                await nodes.generate("refused", 1)
            nodes.road.cut = False
            await nodes.serves_again()

    asyncio.run(scenario())


def test_rank_0_waits_for_a_worker_that_left_and_starts_with_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            nodes.working.cancel()
            await asyncio.gather(nodes.working, return_exceptions=True)
            await nodes.until(lambda: nodes.engine.state is EngineState.RESTARTING)
            await asyncio.sleep(0.5)
            assert len(nodes.hosts) == 1, "nothing starts without the other node"
            nodes.worker = nodes.new_worker()
            nodes.working = asyncio.ensure_future(nodes.worker.run())
            await nodes.serves_again()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (messages.Hello(2, "h200-16", "versions", "hash"), "--node-rank must be 1 to 1"),
        (messages.Hello(1, "h100-16", "versions", "hash"), "its preset is h100-16, rank 0's is h200-16"),
        (messages.Hello(1, "h200-16", "others", "hash"), "its software is others"),
        (messages.Hello(1, "h200-16", "versions", "another"), "its checkpoint is another"),
    ],
)
def test_a_worker_that_does_not_fit_is_refused_with_the_reason_and_ends(
    tmp_path: Path, hello: messages.Hello, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            assert await nodes.new_worker(hello).run() is Exit.REFUSED
            assert f"rank 0 refused this node: {reason}" in caplog.text
            assert await nodes.generate("a", 2) == 2, "the engine goes on"

    asyncio.run(scenario())


def test_with_restart_pod_a_death_is_final_on_every_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path, Restart.POD) as nodes:
            nodes.ranks[0].process.send_signal(signal.SIGKILL)
            await nodes.until(lambda: nodes.engine.state is EngineState.FAILED)
            with pytest.raises(EngineUnavailable, match="the engine is down, and its server ends"):
                await nodes.generate("refused", 1)
            assert await asyncio.wait_for(nodes.working, 30) is Exit.RANK_ENDED
            assert len(nodes.hosts) == len(nodes.ranks) == 1

    asyncio.run(scenario())


def test_a_worker_without_rank_0_ends_after_its_patience(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def never(address: str) -> HostProcess:
            raise AssertionError("nothing is to be started")

        worker = NodeWorker(f"127.0.0.1:{free_port()}", HELLO, {}, never, patience=0.5)
        assert worker.trouble == "rank 0 is not heard"
        assert await asyncio.wait_for(worker.run(), 10) is Exit.NO_RANK_0

    asyncio.run(scenario())


def test_an_attempt_to_connect_is_given_up_soon_enough_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a cut network it gets no answer, and the kernel repeats it less and less often."""
    assert worker_module.ATTEMPT_SECONDS + worker_module.CONNECT_SECONDS < 5, "that long after the network is back"
    monkeypatch.setattr(worker_module, "ATTEMPT_SECONDS", 0.05)
    monkeypatch.setattr(worker_module, "CONNECT_SECONDS", 0.01)
    attempts = 0

    async def unanswered(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(60)

    async def never(address: str) -> HostProcess:
        raise AssertionError("nothing is to be started")

    async def scenario() -> None:
        monkeypatch.setattr(asyncio, "open_connection", unanswered)
        worker = NodeWorker(f"127.0.0.1:{free_port()}", HELLO, {}, never, patience=0.5)
        assert await asyncio.wait_for(worker.run(), 10) is Exit.NO_RANK_0

    asyncio.run(scenario())
    assert attempts > 3


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", b""])
def test_a_stranger_on_the_meetings_port_changes_nothing(tmp_path: Path, noise: bytes) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            reader, writer = await asyncio.open_connection(*split_address(nodes.road.far))
            writer.write(noise)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            assert await nodes.generate("a", 2) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:0", "host:65500"])
def test_an_address_without_room_for_rendezvous_is_refused(address: str) -> None:
    with pytest.raises(InvalidValue, match="HOST:PORT"):
        split_address(address)


def test_starts_take_turns_on_nine_ports() -> None:
    group = Group("[::1]:20000", 2, "", "", "")
    ports = [group.rendezvous(number) for number in range(100, 109)]
    assert len(set(ports)) == 9
    assert ports[0].startswith("[::1]:200")
