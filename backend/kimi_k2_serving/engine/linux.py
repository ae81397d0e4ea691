"""What a process asks of Linux: privacy of what it makes, two controls of prctl(2), and the end of another process."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import stat
import time
from pathlib import Path
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# What `watched` says of a process that has ended.
GONE = -1
# How often the process table is asked where no descriptor is to be had.
POLL_SECONDS = 0.25


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def keep_private() -> None:
    """Files, sockets and shared memory that this process and its children make are their user's alone."""
    os.umask(0o077)


def private_directory(path: Path) -> None:
    """Make it if it is not there. Raises OSError where it is not a directory of this user's alone: its name can be
    guessed, and another user may have made it first.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "it is not this user's alone")


def private_log(path: Path) -> BinaryIO:
    """Opened to append, for this user alone. An old file keeps its text, and loses the mode that it was made with."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def become_subreaper() -> None:
    """Orphans among this process's descendants become its own children, so none is ever lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """For a child between fork and exec: the kernel sends it `sent` when the thread that started it ends, however."""
    _prctl(_PR_SET_PDEATHSIG, sent)


def watched(pid: int) -> int | None:
    """A descriptor that is readable once the process is gone. GONE if it is already, None if none is to be had now."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return GONE
    except OSError:
        # Out of descriptors or memory, which may last: the process table is asked instead.
        return None if Path(f"/proc/{pid}").exists() else GONE


def wait_for_end(pid: int) -> None:
    """Return once the process is gone; for a thread that has nothing else to do."""
    while (descriptor := watched(pid)) is None:
        time.sleep(POLL_SECONDS)
    if descriptor != GONE:
        select.select([descriptor], [], [])
        os.close(descriptor)
