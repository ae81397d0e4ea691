"""Linux calls: private files and directories, controls of prctl(2), and waiting for the end of another process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_PR_SET_CHILD_SUBREAPER = 36
# Returned by `watched` for a process that has ended.
GONE = -1
# The polling interval while no descriptor is available.
POLL_SECONDS = 0.25


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def keep_private() -> None:
    """Let only this user open the files, sockets and shared memory that this process and its children create."""
    os.umask(0o077)


def private_directory(path: Path) -> None:
    """Create the directory if it is missing. Raises OSError if another user owns it or can open it. Its name can be
    guessed, so another user may have created it first.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "another user owns it or can open it")


def private_log(path: Path) -> BinaryIO:
    """Open the file for appending, with mode 0600. An existing file keeps its text and gets that mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def become_subreaper() -> None:
    """Make orphaned descendants of this process its children, so that it can wait for all of them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """Make the kernel send `sent` to this process when the thread that started it ends for any reason."""
    _prctl(_PR_SET_PDEATHSIG, sent)


@contextlib.contextmanager
def timer_slack(seconds: float) -> Iterator[None]:
    """Let the kernel extend the timeouts of this thread by up to `seconds`. Threads that it starts meanwhile keep this
    setting for good. Only timeouts are late: the event that a thread waits for still wakes it at once.
    """
    _prctl(_PR_SET_TIMERSLACK, int(seconds * 1e9))
    try:
        yield
    finally:
        # 0 stands for the slack that the thread had when it was started.
        _prctl(_PR_SET_TIMERSLACK, 0)


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat (see proc(5)) from the process's state on, which is the third. Raises OSError if
    there is no such process.
    """
    # The second field, the name, is in parentheses and may have spaces and parentheses of its own.
    return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()


def watched(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends. GONE if it has ended, None if none is available now."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return GONE
    except OSError:
        # There are no descriptors or no memory, perhaps for long. Look into /proc instead.
        return None if Path(f"/proc/{pid}").exists() else GONE


def wait_for_end(pid: int) -> None:
    """Block this thread until the process is gone."""
    while (descriptor := watched(pid)) is None:
        time.sleep(POLL_SECONDS)
    if descriptor != GONE:
        select.select([descriptor], [], [])
        os.close(descriptor)
