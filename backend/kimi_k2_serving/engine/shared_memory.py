"""Finds which process has which files in /dev/shm, and removes exactly those that ended processes left there.

A file is identified by its inode, which tmpfs never reuses. A name is not enough: another process may reuse it, and
/proc shows a semaphore by the name that it had before sem_open(3) renamed it. Reads /proc/PID/maps and /proc/PID/fd.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A file in /dev/shm: its inode, and its present or an earlier name."""

    name: str
    inode: int


def mapped_entries(pid: int, *, proc: Path = Path("/proc")) -> Iterator[Entry]:
    """The entries that a process maps or holds open; none if it is gone or this user may not read its /proc files."""
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


def listed() -> Iterator[Entry]:
    """All files in /dev/shm, of every process and user."""
    for path in SHARED_MEMORY.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield Entry(str(path.relative_to(SHARED_MEMORY)), status.st_ino)


def make_private(pid: int) -> None:
    """Let only this user open the files that the process has in /dev/shm. Triton's Python backend ignores the umask and
    makes them readable by every local user, although they contain requests and answers.
    """
    for entry in mapped_entries(pid):
        with suppress(FileNotFoundError):
            (SHARED_MEMORY / entry.name).chmod(stat.S_IRUSR | stat.S_IWUSR)


def unlink(entries: Iterable[Entry]) -> None:
    """Remove the files' names, even if a process still has them open."""
    for entry in set(entries):
        with suppress(OSError):
            (SHARED_MEMORY / entry.name).unlink()


def remove(entries: Iterable[Entry]) -> list[str]:
    """Unlink these files, by inode, unless a living process still has them open. Returns the removed names."""
    inodes = {entry.inode for entry in entries}
    present = [entry for entry in listed() if entry.inode in inodes]
    if not present:
        return []
    pids = [int(each.name) for each in os.scandir("/proc") if each.name.isdecimal()]
    in_use = {entry.inode for pid in pids for entry in mapped_entries(pid)}
    removed = []
    for entry in sorted(present):
        if entry.inode not in in_use:
            with suppress(OSError):
                (SHARED_MEMORY / entry.name).unlink()
                removed.append(entry.name)
    return removed
