"""Who has what in /dev/shm, and how to remove what ended processes leave there: exactly that, nothing of others.

An entry is told by its inode: tmpfs never uses a number twice, while a name may be used again by somebody else, and a
semaphore is seen under the name it had before sem_open(3) renamed it. A look at a process reads /proc/PID/maps and fd.
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
    """A file of /dev/shm: its inode, and a name that it had."""

    name: str
    inode: int


def mapped_entries(pid: int, *, proc: Path = Path("/proc")) -> Iterator[Entry]:
    """The entries that a process maps or holds open; none if it is gone or not ours to look at."""
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


def listed(folder: Path = SHARED_MEMORY) -> Iterator[Entry]:
    """Everything there is, whoever made it."""
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield Entry(str(path.relative_to(folder)), status.st_ino)


def make_private(pid: int) -> None:
    """Let only this user open what a process of ours has in /dev/shm. Triton's Python backend makes its files there
    readable by every local user whatever the umask is, and requests and answers lie in them.
    """
    for entry in mapped_entries(pid):
        with suppress(FileNotFoundError):
            (SHARED_MEMORY / entry.name).chmod(stat.S_IRUSR | stat.S_IWUSR)


def unlink(entries: Iterable[Entry]) -> None:
    """Take their names away, whoever still holds them: nobody else will."""
    for entry in set(entries):
        with suppress(OSError):
            (SHARED_MEMORY / entry.name).unlink()


def remove(entries: Iterable[Entry]) -> list[str]:
    """Unlink the files that these were, unless a living process still holds them; the names removed."""
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
