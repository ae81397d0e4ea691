"""The servers of this checkout that run now: one file for each, `.cache/run/server-PID.json`. Standard library only.

A second `serve` reads them to say which server has its port, and `kimi-k2` to find the server and its model. A file
counts only while its process runs. The kernel's start time of the process distinguishes it from a later process with
the same pid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kimi_k2_serving.engine import linux

PATTERN = "server-*.json"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """`started` is in the kernel's ticks. `ports` are all that it listens on; `demo`: it serves the demo checkpoint."""

    pid: int
    started: int
    url: str
    ports: tuple[int, ...]
    checkpoint: str
    demo: bool
    is_ready: bool = False


@contextmanager
def announced(folder: Path, server: RunningServer) -> Iterator[None]:
    """While the block runs, `servers` lists this server."""
    announce(folder, server)
    try:
        yield
    finally:
        path_of(folder, server.pid).unlink(missing_ok=True)


def announce(folder: Path, server: RunningServer) -> None:
    """Write the server's file, and remove those of processes that have ended."""
    for path in folder.glob(PATTERN):
        if _read(path) is None:
            path.unlink(missing_ok=True)
    target = path_of(folder, server.pid)
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(server)), encoding="utf-8")
    os.replace(fresh, target)


def path_of(folder: Path, pid: int) -> Path:
    return folder / f"server-{pid}.json"


def servers(folder: Path) -> list[RunningServer]:
    """The servers whose processes run, by pid."""
    found = [server for path in folder.glob(PATTERN) if (server := _read(path)) is not None]
    return sorted(found, key=lambda server: server.pid)


def start_of(pid: int) -> int | None:
    """The kernel's start time of a process, in ticks since the boot; None if there is no such process."""
    try:
        fields = linux.stat_fields(pid)
    except OSError:
        return None
    # The start time is field 22 of the file.
    return None if fields[0] == "Z" else int(fields[19])


def _read(path: Path) -> RunningServer | None:
    """Read a file. None if it does not have this form or its process has ended."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        server = RunningServer(**{**document, "ports": tuple(document["ports"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if start_of(server.pid) == server.started else None
