"""One host process: spawned, spoken to over a socket pair, ended with everything that it started.

The host leads a session and process group of its own, so `end` reaches SGLang's processes even after a kill -9 of the
host. Its temporary directory (0700) holds SGLang's sockets and is removed with it, as is what it had in /dev/shm.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kimi_k2_serving.engine import group, wire

END_SECONDS = 5.0


class HostProcess:
    """Made by `spawn`. `receive` returns None once the process is gone."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        directory: Path,
    ) -> None:
        self.process = process
        self._messages = wire.messages(reader, wire.FromHost)
        self._writer = writer
        self._directory = directory
        self._shared_memory: set[Path] = set()
        self._ending: asyncio.Task[None] | None = None

    def send(self, message: wire.ToHost) -> None:
        if not self._writer.is_closing():
            wire.write(self._writer, [message])

    async def receive(self) -> wire.FromHost | None:
        try:
            return await anext(self._messages, None)
        except (ConnectionError, ValueError):
            return None

    def observe(self) -> None:
        """Record what the group has in /dev/shm, to be removed with it, also after a kill -9."""
        self._shared_memory |= group.shared_memory(self.process.pid)

    async def end(self) -> None:
        """Kill the group, wait for it, remove what it leaves. May be called again, and goes on if its caller is
        cancelled.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        self._writer.close()
        await asyncio.to_thread(self._end_group)
        await self.process.wait()
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _end_group(self) -> None:
        self.observe()
        group.kill(self.process.pid)
        group.await_end(self.process.pid, END_SECONDS)
        group.remove(self._shared_memory)


def private_directory(runtime: Path) -> Path:
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="engine-", dir=runtime))


async def spawn(command: Sequence[str], environment: Mapping[str, str], runtime: Path) -> HostProcess:
    """Start `command FD PARENT` with a socket pair end as FD; `runtime` is the directory for its temporary
    directory.
    """
    directory = private_directory(runtime)
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *command,
            str(theirs.fileno()),
            str(os.getpid()),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            env={**environment, "TMPDIR": str(directory)},
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return HostProcess(process, reader, writer, directory)
