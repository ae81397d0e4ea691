"""Two of Linux's process controls that Python does not offer (prctl(2))."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """Orphans among this process's descendants become its own children, so none is ever lost sight of."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    """For a child between fork and exec: the kernel sends it `sent` when the thread that started it ends, however."""
    _prctl(_PR_SET_PDEATHSIG, sent)
