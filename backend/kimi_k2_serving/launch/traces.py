"""What a server leaves on the machine while it runs: its processes, and the /dev/shm entries they made.

Both are observed, never guessed. Processes: every descendant of the watching process, by pid and start time; it is a
subreaper, so a descendant stays one even if its parent dies. Entries: names that a descendant maps or holds open and
that were not there before.
One look costs a read of /proc/PID/maps per process, some milliseconds.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from kimi_k2_serving.engine.shared_memory import Entry, listed, mapped_entries


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
        return cls(foreign=frozenset(entry.inode for entry in listed()))

    def look(self, root: int) -> bool:
        """Note the descendants of `root` and their entries; True if there was anything new."""
        before = len(self.processes) + len(self.entries)
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                self.processes.add(Ident(process.pid, process.create_time()))
                self.entries.update(entry for entry in mapped_entries(process.pid) if entry.inode not in self.foreign)
        return len(self.processes) + len(self.entries) > before

    def alive(self) -> list[Ident]:
        return sorted(process for process in self.processes if process.alive())
