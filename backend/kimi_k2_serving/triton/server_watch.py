"""Detects that this stub's Triton server is stopping or has ended, because Triton does not tell its backends.

On SIGTERM Triton 24.10 waits up to --exit-timeout-secs for open HTTP connections, while its models go on as before.
Then it exits without notice, even with requests in flight. But after the signal it closes every new HTTP connection
without an answer. This module probes for that, and reads the exit timeout from Triton's command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.engine.pace import Pace

POLL_SECONDS = 0.25
# The interval of connections while they are answered. Each takes the stub and Triton a millisecond.
ANSWERED_SECONDS = 0.5
ANSWER_SECONDS = 2.0
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Triton's own defaults.
HTTP_PORT = 8000
EXIT_SECONDS = 30.0
# The time for the engine to end after Triton is gone: no process may outlive Triton by more than 5 s.
ORPHAN_SECONDS = 3.0
ALARM_SECONDS = 4
# Part of the name of the shared memory between Triton and a stub.
REGION = "_backend_shm_region_"


@dataclass(frozen=True, slots=True)
class TritonServer:
    """Triton's HTTP address and port, and its exit timeout in seconds."""

    address: str
    port: int
    exit_seconds: float

    @classmethod
    def parse(cls, argv: Sequence[str]) -> TritonServer | None:
        """Parse a command line; None if it is not a tritonserver's, or HTTP is off."""
        if not argv or Path(argv[0]).name != "tritonserver":
            return None
        flags = read_flags(argv[1:])
        if flags.get("allow-http", "true").lower() in ("false", "0"):
            return None
        address = flags.get("http-address", "0.0.0.0")
        return cls(
            address="127.0.0.1" if address in ("0.0.0.0", "localhost") else address,
            port=int(flags.get("http-port", HTTP_PORT)),
            exit_seconds=float(flags.get("exit-timeout-secs", EXIT_SECONDS)),
        )

    @classmethod
    def of_process(cls, pid: int) -> TritonServer | None:
        with contextlib.suppress(OSError, ValueError):
            return cls.parse(Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0"))
        return None

    async def stopping(self, pace: Pace) -> None:
        """Return once the server has answered, and then closed two new connections in a row without an answer. While it
        answers, the next connection also waits for `pace.rest`, because without requests there is no hurry.
        """
        seen, closed = False, 0
        while True:
            answered = await self.answers()
            closed = closed + 1 if seen and answered is False else 0
            if closed == 2:
                return
            seen = seen or answered is True
            await asyncio.sleep(ANSWERED_SECONDS if answered else POLL_SECONDS)
            if answered:
                await pace.rest()

    async def serving(self) -> None:
        """Return once the server answers."""
        while await self.answers() is not True:  # noqa: ASYNC110 - nothing could set an event
            await asyncio.sleep(POLL_SECONDS)

    async def answers(self) -> bool | None:
        """Whether a new connection gets an answer. None if that is unknown: the server is too busy to answer in time,
        or this process has no descriptor, port or memory for a connection.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(self.address, self.port)
                try:
                    writer.write(REQUEST)
                    return bool(await reader.read(1))
                finally:
                    writer.close()
        except (ConnectionRefusedError, ConnectionResetError):
            return False
        except OSError:
            return None


async def stop_with_parent(parent: int, stop: Callable[[], Awaitable[None]]) -> None:
    """When `parent` has ended, call `stop` and exit: Triton 24.10's stub may hang when Triton is killed."""
    await until_ended(parent)
    end_soon()
    try:
        # This comes first, because the stub may exit by itself within a second.
        remove_shared_memory()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ORPHAN_SECONDS):
                await stop()
    finally:
        os._exit(1)


def end_with_parent(parent: int) -> None:
    """Do the same in a process without an event loop and without work to stop. A thread waits for the parent's end."""

    def watch() -> None:
        linux.wait_for_end(parent)
        end_soon()
        try:
            remove_shared_memory()
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_soon() -> None:
    """Let the kernel kill this process after ALARM_SECONDS: a thread may hold the GIL in a call to the ended Triton."""
    signal.alarm(ALARM_SECONDS)


def remove_shared_memory() -> None:
    """Remove the shared memory between Triton and this process, because no other process is left to do it."""
    held = shared_memory.mapped_entries(os.getpid())
    shared_memory.unlink(entry for entry in held if entry.name.startswith("triton_") and REGION in entry.name)


async def until_ended(pid: int) -> None:
    """Return once the process is gone."""
    while (descriptor := linux.watched(pid)) is None:  # noqa: ASYNC110 - no event tells of free descriptors
        await asyncio.sleep(POLL_SECONDS)
    if descriptor == linux.GONE:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_reader(descriptor, gone.set)
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def read_flags(argv: Sequence[str]) -> dict[str, str]:
    """Parse `--name=value` and `--name value`; the last one wins, as in Triton."""
    flags = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            flags[name] = value if equals else "true"
        elif name:
            flags[name] = word
            name = ""
    return flags
