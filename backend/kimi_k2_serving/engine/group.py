"""A process group as /proc shows it: who is in it, what it has in /dev/shm, how to end it.

SGLang's processes leave semaphores and snapshot files in /dev/shm when they are killed. Only what a member of the group
has mapped is ever named here, so nothing of anybody else's is removed. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SHARED_MEMORY = "/dev/shm/"


def members(group: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # pid (command) state parent group ...; the command may hold spaces and parentheses.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    yield int(entry.name)


def shared_memory(group: int) -> set[Path]:
    """The entries of /dev/shm that members of the group have mapped now."""
    found = set()
    for pid in members(group):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, slash, name = line.partition(SHARED_MEMORY)
                if slash and not name.endswith(" (deleted)"):
                    found.add(Path(SHARED_MEMORY + name))
    return found


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def await_end(group: int, seconds: float) -> bool:
    """True once no process of the group is left: the killed ones hold memory and sockets for a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        time.sleep(0.02)
    return False
