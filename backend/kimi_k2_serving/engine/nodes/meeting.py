"""Rank 0's side: the address where the workers report, and the number of each start.

`gather` waits until every other node is connected and has no process left, gives the start its number and its own
port for torch's rendezvous, and tells the workers to begin. `guard` then watches them: when one ends, leaves or is
silent, it calls back, and the supervisor ends the engine. A worker of an old start can't join a new one: it was told
neither its number nor its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.limits import NODE_SILENCE_SECONDS
from kimi_k2_serving.engine.config import Restart
from kimi_k2_serving.engine.nodes import messages

logger = logging.getLogger(__name__)

# The address's own port is the meeting's. Rendezvous take turns on the ports above, ten apart: data-parallel attention
# uses the six after its own.
RENDEZVOUS_STEP, RENDEZVOUS_PORTS = 10, 9
# How often the log says which nodes are missing.
TELL_SECONDS = 60.0


class Nodes(Protocol):
    """What the supervisor needs of the other nodes."""

    async def gather(self, server_args: Mapping[str, Any]) -> dict[str, Any]: ...

    def guard(self, lost: Callable[[], None]) -> None: ...

    def halt(self) -> None: ...

    async def close(self) -> None: ...


class OneNode:
    """There are no others."""

    async def gather(self, server_args: Mapping[str, Any]) -> dict[str, Any]:
        return dict(server_args)

    def guard(self, lost: Callable[[], None]) -> None:
        pass

    def halt(self) -> None:
        pass

    async def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Group:
    """What every node must agree on. `address` is host and port of the meeting."""

    address: str
    nodes: int
    preset: str
    software: str
    checkpoint: str
    restart: Restart = Restart.IN_PLACE

    @property
    def host(self) -> str:
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        return split_address(self.address)[1]

    def rendezvous(self, generation: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port + RENDEZVOUS_STEP * (1 + generation % RENDEZVOUS_PORTS)}"

    def refusal(self, hello: messages.Hello) -> str:
        """Why this worker does not fit; "" if it does."""
        if not 0 < hello.node_rank < self.nodes:
            return f"--node-rank must be 1 to {self.nodes - 1}"
        for name in ("preset", "software", "checkpoint"):
            ours, theirs = getattr(self, name), getattr(hello, name)
            if ours != theirs:
                return f"its {name} is {theirs}, rank 0's is {ours}; both nodes need the same"
        return ""


def split_address(address: str) -> tuple[str, int]:
    """Raises InvalidValue."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536 - RENDEZVOUS_STEP * (RENDEZVOUS_PORTS + 1):
        raise InvalidValue("must be HOST:PORT, with a hundred free ports from there", field="engine.dist_init_addr")
    return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(slots=True)
class Member:
    """A connected worker. `generation`: the start that it has processes of, 0 for none."""

    writer: asyncio.StreamWriter
    heard: float
    generation: int = -1


@dataclass(slots=True)
class Meeting:
    """All state belongs to one event loop."""

    group: Group
    clock: Callable[[], float] = time.monotonic
    _members: dict[int, Member] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _guests: set[asyncio.Task[None]] = field(default_factory=set)
    _pulse: asyncio.Task[None] | None = None
    # The number of the start that runs, 0 for none. The first is the time, so it differs from a former process's.
    _generation: int = 0
    _next: int = field(default_factory=lambda: int(time.time()))
    _lost: Callable[[], None] | None = None

    async def gather(self, server_args: Mapping[str, Any]) -> dict[str, Any]:
        """Wait for all nodes, as long as it takes, and begin a new start. Returns its arguments for rank 0."""
        await self._open()
        begun = told = self.clock()
        while missing := self._missing():
            if self.clock() - told > TELL_SECONDS:
                told = self.clock()
                logger.warning("waiting for node %s since %.0f s", ", ".join(map(str, missing)), told - begun)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), messages.PULSE_SECONDS)
        self._generation = self._next
        self._next += 1
        made = {**server_args, "dist_init_addr": self.group.rendezvous(self._generation)}
        for member in self._members.values():
            messages.send(member.writer, messages.Begin(self._generation, made, self.group.restart))
            member.generation = self._generation
        return made

    @property
    def local_address(self) -> str:
        """The address that the other nodes reach this one at; "" before `gather`."""
        return str(self._server.sockets[0].getsockname()[0]) if self._server is not None else ""

    def guard(self, lost: Callable[[], None]) -> None:
        """Call `lost` once when a node of this start is gone, at once if one is already."""
        self._lost = lost
        if any(member.generation != self._generation for member in self._members.values()) or self._absent():
            self._lose("a node left before the engine began")

    def halt(self) -> None:
        """This start is over: every node ends its rank."""
        self._lost = None
        if self._generation:
            for member in self._members.values():
                messages.send(member.writer, messages.Halt(self._generation))
            self._generation = 0

    async def close(self) -> None:
        self.halt()
        if self._pulse is not None:
            self._pulse.cancel()
        if self._server is not None:
            self._server.close()
        for guest in self._guests:
            guest.cancel()
        await asyncio.gather(*self._guests, return_exceptions=True)

    def _absent(self) -> list[int]:
        return [rank for rank in range(1, self.group.nodes) if rank not in self._members]

    def _missing(self) -> list[int]:
        busy = [rank for rank, member in self._members.items() if member.generation != 0]
        return sorted({*self._absent(), *busy})

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._welcome, self.group.host, self.group.port)
            self._pulse = asyncio.create_task(self._beat())

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rank, task = 0, asyncio.current_task()
        assert task is not None
        self._guests.add(task)
        task.add_done_callback(self._guests.discard)
        try:
            hello = await asyncio.wait_for(messages.receive(reader, messages.ToMeeting), NODE_SILENCE_SECONDS.value)
            if not isinstance(hello, messages.Hello):
                return
            if why := self.group.refusal(hello):
                logger.error("node %d was refused: %s", hello.node_rank, why)
                messages.send(writer, messages.Refused(why))
                return
            rank = hello.node_rank
            self._join(rank, Member(writer, self.clock()))
            while (message := await messages.receive(reader, messages.ToMeeting)) is not None:
                self._hear(rank, writer, message)
        except TimeoutError:
            pass
        finally:
            self._part(rank, writer)
            writer.close()

    def _join(self, rank: int, member: Member) -> None:
        if (former := self._members.get(rank)) is not None:
            self._part(rank, former.writer)
            former.writer.close()
        logger.warning("node %d is here", rank)
        self._members[rank] = member
        messages.send(member.writer, messages.Pulse(self._generation))

    def _hear(self, rank: int, writer: asyncio.StreamWriter, message: messages.ToMeeting) -> None:
        member = self._members.get(rank)
        if member is None or member.writer is not writer:
            return
        member.heard = self.clock()
        match message:
            case messages.Pulse(generation=0) if member.generation == self._generation != 0:
                # It was sent before it read Begin.
                pass
            case messages.Pulse(generation=generation):
                member.generation = generation
                self._changed.set()
            case messages.Lost(generation=generation):
                self._lose_start(generation, rank)
            case messages.Ended(generation=generation):
                member.generation = 0
                self._changed.set()
                self._lose_start(generation, rank)
            case messages.Hello():
                pass

    def _part(self, rank: int, writer: asyncio.StreamWriter) -> None:
        member = self._members.get(rank)
        if member is None or member.writer is not writer:
            return
        del self._members[rank]
        self._changed.set()
        if self._generation and member.generation == self._generation:
            self._lose(f"node {rank} is gone")

    def _lose_start(self, generation: int, rank: int) -> None:
        if generation == self._generation:
            self._lose(f"a process of node {rank} ended")

    def _lose(self, why: str) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            logger.error("%s: the engine is ended on all nodes", why)
            lost()

    async def _beat(self) -> None:
        while True:
            for rank, member in list(self._members.items()):
                if self.clock() - member.heard > NODE_SILENCE_SECONDS.value:
                    logger.error("node %d was silent for %d s", rank, NODE_SILENCE_SECONDS.value)
                    self._part(rank, member.writer)
                    # Nothing can be sent to it any more, so nothing is waited for.
                    member.writer.transport.abort()
                else:
                    messages.send(member.writer, messages.Pulse(self._generation))
            await asyncio.sleep(messages.PULSE_SECONDS)
