"""The directory of one worker's sockets. If SIGKILL ended the worker, the next one on this machine removes it.

A worker holds a lock on its directory for as long as it lives, which the kernel gives back at any end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "kimi-k2-worker-"


@contextlib.contextmanager
def worker_directory(base: Path) -> Iterator[Path]:
    """A new one (0700) in `base`, removed at the end."""
    for left in base.glob(f"{PREFIX}*"):
        _remove_left(left)
    with contextlib.ExitStack() as held:
        while (path := _locked(held, Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)))) is None:
            # Another worker has taken it for one that was left.
            pass
        held.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def _remove_left(path: Path) -> None:
    """Remove it unless its worker lives, or another user's worker made it."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        if _locked(held, path) is not None:
            shutil.rmtree(path, ignore_errors=True)


def _locked(held: contextlib.ExitStack, path: Path) -> Path | None:
    """The same path, locked until `held` ends; None if it is gone, in use or another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        held.callback(os.close, descriptor)
        if os.fstat(descriptor).st_uid != os.geteuid():
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path if path.exists() else None
    except OSError:
        return None
