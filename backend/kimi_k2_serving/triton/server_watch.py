"""Whether the Triton server above this stub has been told to stop: it tells no backend.

On SIGTERM Triton 24.10 first lets open HTTP connections end, for up to --exit-timeout-secs, while its models go on as
before; then it leaves with whatever is still in flight, unannounced. But from the signal on it closes every new HTTP
connection without an answer. That is looked for here, and the time it gives is read from its own command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.25
ANSWER_SECONDS = 2.0
REQUEST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# Triton's own defaults.
HTTP_PORT = 8000
EXIT_SECONDS = 30.0
# What the engine gets to end in when Triton is gone: nothing may outlive it by more than 5 s.
ORPHAN_SECONDS = 3.0


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
            address="127.0.0.1" if address == "0.0.0.0" else address,
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
        seen = False
        while True:
            answered = await self._answers()
            if seen and answered is False and await self._answers() is False:
                return
            seen = seen or answered is True
            await asyncio.sleep(POLL_SECONDS)

    async def _answers(self) -> bool | None:
        """None where neither an answer nor the connection's end came in time: a busy server is not a stopping one."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(self.address, self.port)
                try:
                    writer.write(REQUEST)
                    return bool(await reader.read(1))
                finally:
                    writer.close()
        except TimeoutError:
            return None
        except OSError:
            return False


async def leave_with(parent: int, stop: Callable[[], Awaitable[None]]) -> None:
    """`stop` and end this process when `parent` has ended: Triton 24.10's stub may hang when Triton is killed."""
    await ended(parent)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ORPHAN_SECONDS):
            await stop()
    os._exit(1)


async def ended(pid: int) -> None:
    """Return once the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
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
