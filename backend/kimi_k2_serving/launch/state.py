"""The state file of a running `serve` lists what must be cleaned up. If SIGKILL ends this `serve`, the next one does
the cleaning.

One file per `serve`, `.cache/run/serve-PID.json`, replaced atomically and removed at a clean end.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.engine import shared_memory
from kimi_k2_serving.engine.shared_memory import Entry
from kimi_k2_serving.launch.traces import Ident, Traces

RUNTIME_PREFIX = "kimi-k2-"


@dataclass(frozen=True, slots=True)
class State:
    """`boot` is the kernel's boot id: after a reboot no process of the file exists, and /dev/shm is new."""

    boot: str
    owner: Ident
    runtime_dir: Path
    processes: tuple[Ident, ...]
    entries: tuple[Entry, ...]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def path_of(folder: Path, pid: int) -> Path:
    return folder / f"serve-{pid}.json"


def snapshot(owner: Ident, runtime_dir: Path, seen: Traces) -> State:
    return State(boot_id(), owner, runtime_dir, tuple(sorted(seen.processes)), tuple(sorted(seen.entries)))


def save(folder: Path, state: State) -> None:
    document = {
        "boot": state.boot,
        "owner": [state.owner.pid, state.owner.started],
        "runtime_dir": str(state.runtime_dir),
        "processes": [[process.pid, process.started] for process in state.processes],
        "shared_memory": [[entry.name, entry.inode] for entry in state.entries],
    }
    target = path_of(folder, state.owner.pid)
    fresh = target.with_suffix(".new")
    fresh.write_text(json.dumps(document), encoding="utf-8")
    os.replace(fresh, target)


def load_state(path: Path) -> State | None:
    """Read a state file; None if it is unreadable, incomplete or not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return State(
            boot=str(document["boot"]),
            owner=Ident(*document["owner"]),
            runtime_dir=Path(document["runtime_dir"]),
            processes=tuple(Ident(*each) for each in document["processes"]),
            entries=tuple(Entry(*each) for each in document["shared_memory"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_runtime_dir(path: Path) -> None:
    """Remove a runtime directory that belongs to this user. Do nothing for any other path."""
    try:
        status = path.lstat()
    except OSError:
        return
    if path.name.startswith(RUNTIME_PREFIX) and stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
        shutil.rmtree(path, ignore_errors=True)


def clean_leftovers(folder: Path) -> list[str]:
    """Clean up after every `serve` that was killed, unless processes of it still run. Return a line about each."""
    lines = []
    for path in sorted(folder.glob("serve-*.json")):
        state = load_state(path)
        if state is None:
            path.unlink(missing_ok=True)
            continue
        same_boot = state.boot == boot_id()
        if same_boot and state.owner.alive():
            continue
        alive = [process for process in state.processes if process.alive()] if same_boot else []
        if alive:
            pids = " ".join(str(process.pid) for process in alive)
            lines.append(f"an earlier server (pid {state.owner.pid}) was killed but its processes run: kill {pids}")
            continue
        removed = shared_memory.remove(state.entries) if same_boot else []
        remove_runtime_dir(state.runtime_dir)
        path.unlink(missing_ok=True)
        lines.append(f"cleaned up after an earlier server (pid {state.owner.pid}): {len(removed)} files in /dev/shm")
    return lines
