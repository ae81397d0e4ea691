"""A process group, read from /proc: its members, their files in /dev/shm, and how to kill them. Linux only.

SGLang's processes leave semaphores and snapshot files in /dev/shm when they are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kimi_k2_serving.engine import linux
from kimi_k2_serving.engine.shared_memory import Entry, mapped_entries

RESOURCE_TRACKER = b"multiprocessing.resource_tracker"


def members(group: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # pid (command) state parent group ...; the command may hold spaces and parentheses.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    yield int(entry.name)


def shared_memory(group: int) -> set[Entry]:
    """The entries of /dev/shm that members of the group map or hold open now."""
    return {entry for pid in members(group) for entry in mapped_entries(pid)}


def stopped(pids: Iterable[int]) -> bool:
    """Whether one of these processes is stopped by a signal."""
    return any(state(pid) == "T" for pid in pids)


def state(pid: int) -> str:
    """The process state of proc(5), a letter such as R, S, D, T or Z; "" if there is no such process."""
    with contextlib.suppress(OSError):
        return linux.stat_fields(pid)[0]
    return ""


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes together; an ended process counts as 0."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = linux.stat_fields(pid)
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def titled(group: int, prefix: str) -> list[int]:
    """The members whose command line starts with `prefix`."""
    found = []
    for pid in members(group):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(prefix.encode()):
                found.append(pid)
    return found


def kill_workers(group: int, *, spared: int | None = None) -> None:
    """Kill all members except `spared` and Python's resource trackers. A tracker ends by itself after the processes
    that it serves. It removes their semaphores from /dev/shm, even those that no mapping shows.
    """
    for pid in members(group):
        with contextlib.suppress(OSError):
            if pid != spared and RESOURCE_TRACKER not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def reap(group: int) -> None:
    """Wait for the ended members that are children of this process, except the group's leader."""
    for pid in members(group):
        if pid != group:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def await_end(group: int, seconds: float) -> bool:
    """Wait until no process of the group is left, because a killed process keeps memory and sockets for a moment. False
    if some are left after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reap(group)
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.02)
    return False
