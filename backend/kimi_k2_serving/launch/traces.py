"""Records what a running server has on the machine: its processes, and the /dev/shm entries that they made.

Both are observed, not guessed. The processes are all descendants of the watching process, by pid and start time. That
process is a subreaper, so a descendant stays its descendant even if the parent dies. The entries are those that a
descendant maps or has open and that did not exist before the start. `look` reads /proc/PID/maps and fd of each process,
which takes tens of milliseconds. `glance` reads only what can have changed since the last call, which is usually
nothing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kimi_k2_serving.engine.shared_memory import SHARED_MEMORY, Entry, listed, mapped_entries


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


def newest_process() -> int:
    """The id that the kernel gave to a process or thread last. If it has not changed, no process was started."""
    return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[4])


class Change:
    """Whether a value has changed. A change is reported twice, because at the first time its cause may have been only
    half done.
    """

    def __init__(self) -> None:
        self._last: tuple[int | None, int | None] = (None, None)

    def seen(self, value: int) -> bool:
        before, self._last = self._last, (self._last[1], value)
        return before != (value, value)


@dataclass(slots=True)
class Traces:
    """Everything seen so far; nothing is ever removed. `foreign` are the inodes of entries that others made."""

    foreign: frozenset[int]
    processes: set[Ident] = field(default_factory=set)
    entries: set[Entry] = field(default_factory=set)
    _started: Change = field(default_factory=Change)
    _files: Change = field(default_factory=Change)

    @classmethod
    def begin(cls) -> Traces:
        """Start recording. Every entry that is in /dev/shm now belongs to others."""
        return cls(foreign=frozenset(entry.inode for entry in listed()))

    def look(self, root: int) -> bool:
        """Record the descendants of `root` and their entries. Return whether any of them is new."""
        return self._record(root, again=True)

    def glance(self, root: int) -> bool:
        """Do the same, but only for new processes if /dev/shm has not changed, and for none if none was started."""
        started = self._started.seen(newest_process())
        files = self._files.seen(SHARED_MEMORY.stat().st_mtime_ns)
        return (started or files) and self._record(root, again=files)

    def _record(self, root: int, *, again: bool) -> bool:
        """`again`: read the entries of processes that are known already, too."""
        before = len(self.processes) + len(self.entries)
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                ident = Ident(process.pid, process.create_time())
                if ident in self.processes and not again:
                    continue
                self.processes.add(ident)
                self.entries.update(entry for entry in mapped_entries(process.pid) if entry.inode not in self.foreign)
        return len(self.processes) + len(self.entries) > before

    def alive(self) -> list[Ident]:
        return sorted(process for process in self.processes if process.alive())
