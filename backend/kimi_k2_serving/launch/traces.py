"""What a server leaves on the machine while it runs: its processes, and the /dev/shm entries they made.

Both are observed, never guessed. Processes: every descendant of the watching process, by pid and start time; it is a
subreaper, so a descendant stays one even if its parent dies. Entries: names that a descendant maps or holds open and
that were not there before, each with its inode. The inode is what counts: tmpfs never uses a number twice, while a name
may be used again by somebody else, and a semaphore is seen under the name it had before sem_open(3) renamed it.
One look costs a read of /proc/PID/maps per process, some milliseconds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True, order=True)
class Ident:
    """A process that can't be confused with a later one of the same pid; `started` in seconds since the epoch."""

    pid: int
    started: float

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            # The kernel counts from boot in ticks: a corrected clock moves the result by less than this.
            same = abs(process.create_time() - self.started) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A file of /dev/shm: its inode, and a name that it had."""

    name: str
    inode: int


def identify(pid: int) -> Ident | None:
    try:
        return Ident(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


@dataclass(slots=True)
class Traces:
    """What was seen so far, only ever added to; `foreign` are the inodes of others' entries."""

    foreign: frozenset[int]
    processes: set[Ident] = field(default_factory=set)
    entries: set[Entry] = field(default_factory=set)

    @classmethod
    def begin(cls) -> Traces:
        """Everything in /dev/shm at this moment is somebody else's."""
        return cls(foreign=frozenset(entry.inode for entry in _listed(SHARED_MEMORY)))

    def look(self, root: int) -> bool:
        """Note the descendants of `root` and their entries; True if there was anything new."""
        before = len(self.processes) + len(self.entries)
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                self.processes.add(Ident(process.pid, process.create_time()))
                self.entries.update(entry for entry in held(process.pid) if entry.inode not in self.foreign)
        return len(self.processes) + len(self.entries) > before

    def alive(self) -> list[Ident]:
        return sorted(process for process in self.processes if process.alive())


def held(pid: int, *, proc: Path = Path("/proc")) -> Iterator[Entry]:
    """The /dev/shm entries that a process maps or holds open; none if it is gone or not ours to look at."""
    prefix = f"{SHARED_MEMORY}/"
    with suppress(OSError):
        for line in (proc / str(pid) / "maps").read_text(encoding="utf-8", errors="replace").splitlines():
            cells = line.split(maxsplit=5)
            if len(cells) == 6 and cells[5].startswith(prefix):
                yield Entry(cells[5].removeprefix(prefix).removesuffix(_DELETED), int(cells[4]))
    with suppress(OSError):
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith(prefix):
                    yield Entry(target.removeprefix(prefix).removesuffix(_DELETED), descriptor.stat().st_ino)


def remove(entries: Iterable[Entry]) -> list[str]:
    """Unlink the files that these were, unless a living process still holds them; the names removed."""
    inodes = {entry.inode for entry in entries}
    present = [entry for entry in _listed(SHARED_MEMORY) if entry.inode in inodes]
    if not present:
        return []
    in_use = {entry.inode for pid in psutil.pids() for entry in held(pid)}
    removed = []
    for entry in sorted(present):
        if entry.inode not in in_use:
            with suppress(OSError):
                (SHARED_MEMORY / entry.name).unlink()
                removed.append(entry.name)
    return removed


def _listed(folder: Path) -> Iterator[Entry]:
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield Entry(str(path.relative_to(folder)), status.st_ino)
