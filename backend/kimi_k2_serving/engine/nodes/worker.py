"""A node's worker: runs one rank of the engine for each start that rank 0 announces, and ends it with that start.

The rank is a host process, as rank 0's own (`host`), in a process group of its own; all of its processes are watched.
The worker connects to rank 0 for as long as it lives. If rank 0 says `restart: pod`, it ends after the first start
instead, so that an orchestrator creates all nodes anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kimi_k2_serving.core.limits import NODE_SILENCE_SECONDS
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.config import Restart
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.nodes import messages
from kimi_k2_serving.engine.nodes.meeting import split_address

logger = logging.getLogger(__name__)

# Between two attempts to connect, and for one: the kernel sends its second packet after 1 s, its fifth only after 15 s.
CONNECT_SECONDS = 1.0
ATTEMPT_SECONDS = 2.5


class Exit(enum.IntEnum):
    """The worker's exit codes. 2 is also that of wrong arguments."""

    STOPPED = 0
    RANK_ENDED = 1
    REFUSED = 2
    NO_RANK_0 = 3


class NodeWorker:
    """`own` are the arguments that differ from rank 0's: paths and the node's rank. `spawn` starts a host process at
    the address that rank 0 sees this node at, which it is given.
    """

    def __init__(
        self,
        address: str,
        hello: messages.Hello,
        own: Mapping[str, Any],
        spawn: Callable[[str], Awaitable[HostProcess]],
        *,
        patience: float = 7200.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = split_address(address)
        self._hello = hello
        self._own = dict(own)
        self._spawn = spawn
        self._restart = Restart.IN_PLACE
        self._patience = patience
        self._clock = clock
        self._host: HostProcess | None = None
        self._running: asyncio.Task[None] | None = None
        self._generation = 0
        self._serving = False
        self._heard = float("-inf")
        self._begun = False

    @property
    def trouble(self) -> str:
        """Why this node does not serve; "" if it does."""
        if self._clock() - self._heard > NODE_SILENCE_SECONDS.value:
            return "rank 0 is not heard"
        if not self._generation or self._host is None:
            return "rank 0 has not begun"
        if not self._serving:
            return "the rank is starting"
        return "a process of the rank is stopped" if self._host.stopped else ""

    async def run(self) -> Exit:
        """Until it is refused, has waited `patience` seconds for its first start, or Restart.POD ends it. Cancel it to
        stop; nothing is left then.
        """
        since = self._clock()
        try:
            while True:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(ATTEMPT_SECONDS):
                        reader, writer = await asyncio.open_connection(*self._address)
                    try:
                        why = await self._follow(reader, writer)
                    finally:
                        await self._end()
                        writer.transport.abort()
                    if why:
                        logger.error("rank 0 refused this node: %s", why)
                        return Exit.REFUSED
                if self._begun and self._restart is Restart.POD:
                    return Exit.RANK_ENDED
                if not self._begun and self._clock() - since > self._patience:
                    return Exit.NO_RANK_0
                await asyncio.sleep(CONNECT_SECONDS)
        finally:
            await self._end()

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """One connection, to its end or a silence; returns why this node was refused."""
        messages.send(writer, self._hello)
        messages.send(writer, messages.Pulse(0))
        pulse = asyncio.create_task(self._beat(writer))
        try:
            while True:
                async with asyncio.timeout(NODE_SILENCE_SECONDS.value):
                    message = await messages.receive(reader, messages.ToWorker)
                if message is None:
                    logger.warning("the connection to rank 0 has ended")
                    return ""
                self._heard = self._clock()
                match message:
                    case messages.Refused(why=why):
                        return why
                    case messages.Begin():
                        await self._begin(message, writer)
                    case messages.Halt() | messages.Pulse() if message.generation != self._generation:
                        await self._end()
                    case messages.Halt():
                        logger.warning("rank 0 has ended this start")
                        await self._end()
                    case messages.Pulse():
                        pass
                if self._begun and not self._generation and self._restart is Restart.POD:
                    return ""
        except TimeoutError:
            logger.error("rank 0 was silent for %d s", NODE_SILENCE_SECONDS.value)
            return ""
        finally:
            pulse.cancel()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            messages.send(writer, messages.Pulse(self._generation))
            await asyncio.sleep(messages.PULSE_SECONDS)

    async def _begin(self, begin: messages.Begin, writer: asyncio.StreamWriter) -> None:
        await self._end()
        logger.warning("start %d begins", begin.generation)
        self._generation, self._begun, self._restart = begin.generation, True, Restart(begin.restart)
        arguments = {**begin.server_args, **self._own}
        self._running = asyncio.create_task(self._run(arguments, begin.generation, writer))

    async def _run(self, server_args: Mapping[str, Any], generation: int, writer: asyncio.StreamWriter) -> None:
        """One rank, until it ends by itself or this task is cancelled."""
        try:
            spawning = asyncio.ensure_future(self._spawn(writer.get_extra_info("sockname")[0]))
            try:
                self._host = host = await asyncio.shield(spawning)
            except asyncio.CancelledError:
                self._host = await spawning
                raise
            host.send(wire.Start(dict(server_args), warm_up=False))
            if isinstance(await host.receive(), wire.Started):
                await asyncio.to_thread(host.observe)
                host.watch()
                self._serving = True
                logger.warning("the rank of start %d runs", generation)
                while await host.receive() is not None:
                    pass
            logger.error("a process of the rank has ended")
            # Before the others are gone, which takes seconds on a busy machine.
            messages.send(writer, messages.Lost(generation))
        except Exception:
            logger.exception("the rank could not be started")
        await self._end_host()
        self._generation = 0
        messages.send(writer, messages.Ended(generation))

    async def _end(self) -> None:
        """End the rank, if there is one."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self._end_host()
        self._generation = 0

    async def _end_host(self) -> None:
        self._serving = False
        if self._host is not None:
            await self._host.end()
            self._host = None
