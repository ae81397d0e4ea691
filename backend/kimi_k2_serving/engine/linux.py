"""What a process asks of Linux for itself: privacy of what it makes, and two controls of prctl(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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


def become_subreaper() -> None:
    """Orphans among this process's descendants become its own children, so none is ever lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """For a child between fork and exec: the kernel sends it `sent` when the thread that started it ends, however."""
    _prctl(_PR_SET_PDEATHSIG, sent)
