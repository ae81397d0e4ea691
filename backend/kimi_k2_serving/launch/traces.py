"""Records what a running server has on the machine: its processes, and the /dev/shm entries that they made.

Both are observed, not guessed. Processes are all descendants of the watching process, by pid and start time; it is a
subreaper, so a descendant stays its descendant even if the parent dies. Entries are the ones that a descendant maps or
has open and that did not exist before the start. A look reads /proc/PID/maps and fd of each process: some milliseconds.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from kimi_k2_serving.engine.shared_memory import Entry, listed, mapped_entries


@dataclass(frozen=True, slots=True, order=True)
class Ident:
    """A process. `started`, in seconds since the epoch, tells it from a later process with the same pid."""

    pid: int
    started: float

    def alive(self) -> bool:
        """Whether the process still runs. A zombie does not count."""
        try:
            process = psutil.Process(self.pid)
            # The kernel stores ticks since boot; a correction of the clock shifts the result by less than a second.
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
    """Everything seen so far; nothing is ever removed. `foreign` are the inodes of entries that others made."""

    foreign: frozenset[int]
    processes: set[Ident] = field(default_factory=set)
    entries: set[Entry] = field(default_factory=set)

    @classmethod
    def begin(cls) -> Traces:
        """Start recording. Every entry that is in /dev/shm now belongs to others."""
        return cls(foreign=frozenset(entry.inode for entry in listed()))

    def look(self, root: int) -> bool:
        """Record the descendants of `root` and their entries. Return whether any of them is new."""
        before = len(self.processes) + len(self.entries)
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                self.processes.add(Ident(process.pid, process.create_time()))
                self.entries.update(entry for entry in mapped_entries(process.pid) if entry.inode not in self.foreign)
        return len(self.processes) + len(self.entries) > before

    def alive(self) -> list[Ident]:
        return sorted(process for process in self.processes if process.alive())
