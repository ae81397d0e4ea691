"""Whether the Triton server above this stub has been told to stop: it tells no backend.

On SIGTERM Triton 24.10 first lets open HTTP connections end, for up to --exit-timeout-secs, while its models go on as
before; then it leaves with whatever is still in flight, unannounced. But from the signal on it closes every new HTTP
connection without an answer. That is looked for here, and the time it gives is read from its own command line.
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

POLL_SECONDS = 0.25
ANSWER_SECONDS = 2.0
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Triton's own defaults.
HTTP_PORT = 8000
EXIT_SECONDS = 30.0
# What the engine gets to end in when Triton is gone: nothing may outlive it by more than 5 s.
ORPHAN_SECONDS = 3.0
ALARM_SECONDS = 4
# What Triton calls the memory that it shares with a stub.
REGION = "_backend_shm_region_"


@dataclass(frozen=True, slots=True)
class TritonServer:
    """Where it answers over HTTP, and how long it waits for requests when it is told to stop."""

    address: str
    port: int
    exit_seconds: float

    @classmethod
    def parse(cls, argv: Sequence[str]) -> TritonServer | None:
        """From a tritonserver's command line; None if it is none, or one without HTTP."""
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

    async def stopping(self) -> None:
        """Return once the server, having answered before, closes two new connections in a row without an answer."""
        seen, closed = False, 0
        while True:
            answered = await self.answers()
            closed = closed + 1 if seen and answered is False else 0
            if closed == 2:
                return
            seen = seen or answered is True
            await asyncio.sleep(POLL_SECONDS)

    async def serving(self) -> None:
        """Return once the server answers."""
        while await self.answers() is not True:  # noqa: ASYNC110 - there is nobody to set an event
            await asyncio.sleep(POLL_SECONDS)

    async def answers(self) -> bool | None:
        """Whether a new connection gets an answer. None where that can't be told: a busy server is not a stopping one,
        and neither is one that this process has no descriptor, port or memory to ask.
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
    """`stop` and end this process when `parent` has ended: Triton 24.10's stub may hang when Triton is killed."""
    await until_ended(parent)
    end_soon()
    try:
        # First, for Triton's stub also ends by itself within a second.
        remove_shared_memory()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ORPHAN_SECONDS):
                await stop()
    finally:
        os._exit(1)


def end_with_parent(parent: int) -> None:
    """The same for a process without an event loop, which has nothing to stop: a thread of its own waits."""

    def watch() -> None:
        linux.wait_for_end(parent)
        end_soon()
        try:
            remove_shared_memory()
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_soon() -> None:
    """By the kernel's hand, should a thread hold the interpreter in a call to the Triton that is gone."""
    signal.alarm(ALARM_SECONDS)


def remove_shared_memory() -> None:
    """What Triton shares with this process alone, and nobody else is left to remove."""
    held = shared_memory.mapped_entries(os.getpid())
    shared_memory.unlink(entry for entry in held if entry.name.startswith("triton_") and REGION in entry.name)


async def until_ended(pid: int) -> None:
    """Return once the process is gone."""
    while (descriptor := linux.watched(pid)) is None:  # noqa: ASYNC110 - descriptors come back unannounced
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
    """`--name=value` and `--name value`, the last one wins, as Triton reads them."""
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
