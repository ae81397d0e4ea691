"""One host process. `spawn` starts it, a socket pair connects it, and `end` kills it with every process that it
started.

The host leads its own session and process group, so `end` reaches SGLang's processes even after a kill -9 of the host.
When one process of the group ends, all are killed: the others are useless without it. The host's temporary directory
(0700) holds SGLang's sockets; `end` removes it and the group's files in /dev/shm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kimi_k2_serving.engine import group, linux, shared_memory, wire
from kimi_k2_serving.engine.shared_memory import Entry

logger = logging.getLogger(__name__)

END_SECONDS = 5.0
# How long Python's resource tracker may take to clean up.
TRACKER_SECONDS = 1.0
# The titles of SGLang's processes start with this.
TITLE = "sglang::"
SCHEDULER = "sglang::scheduler"


class HostProcess:
    """Created by `spawn`. `receive` returns None once the process is gone."""

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
        self._shared_memory: set[Entry] = set()
        self._workers: list[int] = []
        self._schedulers: list[int] = []
        self._watched: list[int] = []
        self._ending: asyncio.Task[None] | None = None

    def send(self, message: wire.ToHost) -> None:
        """Send a message. Does nothing if the process is gone, which `receive` reports. Raises wire.Unsendable."""
        if not self._writer.is_closing():
            wire.write_frames(self._writer, [message])

    async def receive(self) -> wire.FromHost | wire.Unreadable | None:
        try:
            return await anext(self._messages, None)
        except (OSError, ValueError) as error:
            logger.error("the connection to the engine failed: %s: %s", type(error).__name__, error)
            return None

    def observe(self) -> None:
        """Record the group's processes and files in /dev/shm, so that `end` can remove the files after a kill -9."""
        self._shared_memory |= group.shared_memory(self.process.pid)
        self._workers = [pid for pid in group.titled(self.process.pid, TITLE) if pid != self.process.pid]
        self._schedulers = group.titled(self.process.pid, SCHEDULER)

    def watch(self) -> None:
        """Kill the whole group as soon as one observed process ends."""
        for pid in self._workers:
            try:
                watched = os.pidfd_open(pid)
            except ProcessLookupError:
                self.kill()
                return
            self._watched.append(watched)
            asyncio.get_running_loop().add_reader(watched, self._worker_ended, watched)

    def _worker_ended(self, watched: int) -> None:
        asyncio.get_running_loop().remove_reader(watched)
        self.kill()

    def kill(self) -> None:
        """Kill the group; `receive` then returns None."""
        try:
            group.kill_workers(self.process.pid)
        except OSError:
            # Reading /proc needs a descriptor. killpg needs none, but kills the resource tracker too, which would have
            # removed more from /dev/shm.
            logger.exception("the engine's processes could not be listed")
            group.kill(self.process.pid)

    @property
    def stopped(self) -> bool:
        """Whether one of the observed processes is stopped by a signal."""
        return group.stopped([self.process.pid, *self._workers])

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all schedulers together."""
        return group.cpu_seconds(self._schedulers)

    async def end(self) -> None:
        """Kill the group, wait for it, and remove its files. May be called twice, and goes on if its caller is
        cancelled.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        """Run the steps of `end`, each even if the one before failed."""
        self._writer.close()
        while self._watched:
            watched = self._watched.pop()
            asyncio.get_running_loop().remove_reader(watched)
            os.close(watched)
        await in_thread(self._end_group)
        await self.process.wait()
        await in_thread(lambda: shutil.rmtree(self._directory, ignore_errors=True))

    def _end_group(self) -> None:
        leader = self.process.pid
        attempt(self.observe)
        attempt(lambda: group.kill_workers(leader))
        attempt(lambda: group.await_end(leader, TRACKER_SECONDS))
        attempt(lambda: group.kill(leader))
        attempt(lambda: group.await_end(leader, END_SECONDS))
        attempt(lambda: shared_memory.remove(self._shared_memory))


def attempt(step: Callable[[], object]) -> None:
    """Run the step and log its failure."""
    try:
        step()
    except Exception:
        logger.exception("a step of stopping the engine failed")


async def in_thread(work: Callable[[], object]) -> None:
    """Run `work` in a thread; if no thread can be started, run it here and block the loop."""
    try:
        await asyncio.to_thread(attempt, work)
    except RuntimeError:
        attempt(work)


def make_engine_directory(runtime: Path) -> Path:
    linux.private_directory(runtime)
    return Path(tempfile.mkdtemp(prefix="engine-", dir=runtime))


def one_node(directory: Path) -> dict[str, str]:
    """Environment variables that make the ranks of one node meet through a file and over loopback only. SGLang's
    default is torch's TCP store, which listens on every address of the machine, whatever host it is given.
    """
    return {
        "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": f"file://{directory}/rendezvous",
        "GLOO_SOCKET_IFNAME": "lo",
    }


async def spawn(
    command: Sequence[str], environment: Mapping[str, str], runtime: Path, *, nodes: int = 1
) -> HostProcess:
    """Start `command FD PARENT`; FD is one end of a socket pair. Its temporary directory is created in `runtime`.
    `nodes` is the number of machines that the engine spans. A failure leaves no process and no file.
    """
    linux.become_subreaper()
    with contextlib.ExitStack() as made:
        directory = make_engine_directory(runtime)
        made.callback(shutil.rmtree, directory, ignore_errors=True)
        ours, theirs = socket.socketpair()
        made.callback(ours.close)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                str(os.getpid()),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
                env={**environment, **(one_node(directory) if nodes == 1 else {}), "TMPDIR": str(directory)},
            )
        made.callback(group.kill, process.pid)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        made.pop_all()
    return HostProcess(process, reader, writer, directory)
