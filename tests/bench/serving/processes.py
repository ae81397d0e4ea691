"""What a server's processes spend and hold, by name: CPU time of all their threads, memory, calls and switches.

Times come from the kernel's CPU clock of each process, which counts in nanoseconds and includes threads that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kimi_k2_serving.engine import group, shared_memory

PROC = Path("/proc")
# The first of these texts in a process's title or command line names it.
NAMES = (
    ("sglang::scheduler", "scheduler"),
    ("sglang::detokenizer", "detokenizer"),
    ("sglang::host", "host"),
    ("kimi_k2_engine/1/model.py", "stub_engine"),
    ("kimi_k2_preprocess/1/model.py", "stub_preprocess"),
    ("kimi_k2_postprocess/1/model.py", "stub_postprocess"),
    ("bin/tritonserver", "triton"),
    ("kimi_k2_serving.enforcer", "enforcer"),
    ("kimi_k2_serving.reading", "reading"),
    ("kimi_k2_serving.frontend", "frontend"),
    ("kimi_k2_serving.launch", "launcher"),
    ("serving.bare_engine", "engine_process"),
    ("resource_tracker", "resource_tracker"),
)
RUST_THREADS = "rust_server"
TRACKER_SECONDS, END_SECONDS = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of CPU time; calls of read(2) and its kin, of write(2) and its kin; voluntary context switches."""

    seconds: float = 0.0
    reads: int = 0
    writes: int = 0
    switches: int = 0

    def since(self, before: Spent) -> Spent:
        return Spent(
            max(self.seconds - before.seconds, 0.0),
            max(self.reads - before.reads, 0),
            max(self.writes - before.writes, 0),
            max(self.switches - before.switches, 0),
        )

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.reads + other.reads,
            self.writes + other.writes,
            self.switches + other.switches,
        )


# By process and name: a process may appear under two names, its main thread and its others.
Sample = dict[tuple[int, str], Spent]


@dataclass(slots=True)
class Tree:
    """The processes `roots` and all their descendants. `title` is a root's own name if NAMES has none for it.

    `rust`: the scheduler's process holds a server; its threads other than the main one are counted as RUST_THREADS.
    """

    roots: tuple[int, ...]
    title: str = "other"
    rust: bool = False
    _names: dict[int, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        found = []
        for root in self.roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
        return found

    def name(self, pid: int) -> str:
        if pid not in self._names:
            self._names[pid] = named(pid) or (self.title if pid in self.roots else "other")
        return self._names[pid]

    def sample(self) -> Sample:
        found: Sample = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                name, spent = self.name(pid), spent_by(pid)
                if self.rust and name == "scheduler":
                    main = main_thread_seconds(pid)
                    found[pid, RUST_THREADS] = Spent(seconds=spent.seconds - main)
                    spent = Spent(main, spent.reads, spent.writes, spent.switches)
                found[pid, name] = spent
        return found

    def memory(self) -> dict[str, Memory]:
        found: dict[str, Memory] = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found[self.name(pid)] = found.get(self.name(pid), Memory()) + memory_of(pid)
        return found

    def pause(self) -> None:
        """Stop every process. The parents first: none is then left to see a child that is stopped."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def end_group(leader: int) -> None:
    """Kill a process group, stopped or not, and remove its files in /dev/shm, where SGLang leaves some when killed."""
    left = group.shared_memory(leader)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGCONT)
    group.kill_workers(leader)
    # Python's resource tracker removes more, and ends by itself.
    group.await_end(leader, TRACKER_SECONDS)
    group.kill(leader)
    group.await_end(leader, END_SECONDS)
    shared_memory.remove(left)


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB. `pss` divides shared pages among the processes that share them."""

    rss: float = 0.0
    pss: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss + other.rss, self.pss + other.pss)


def difference(before: Sample, after: Sample) -> dict[str, Spent]:
    """What each name spent in between, processes that were started in between included."""
    found: dict[str, Spent] = {}
    for key, spent in after.items():
        name = key[1]
        found[name] = found.get(name, Spent()) + spent.since(before.get(key, Spent()))
    return found


def named(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        text = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        for part, name in NAMES:
            if part in text:
                return name
    return None


def spent_by(pid: int) -> Spent:
    seconds = time.clock_gettime((~pid << 3) | 2)
    calls = dict(_lines(PROC / str(pid) / "io"))
    switches = 0
    for status in (PROC / str(pid) / "task").glob("*/status"):
        with contextlib.suppress(OSError):
            switches += int(dict(_lines(status))["voluntary_ctxt_switches"])
    return Spent(seconds, int(calls["syscr"]), int(calls["syscw"]), switches)


def main_thread_seconds(pid: int) -> float:
    return int((PROC / str(pid) / "task" / str(pid) / "schedstat").read_text().split()[0]) / 1e9


def memory_of(pid: int) -> Memory:
    lines = dict(_lines(PROC / str(pid) / "smaps_rollup"))
    return Memory(int(lines["Rss"].split()[0]) / 1024, int(lines["Pss"].split()[0]) / 1024)


def busy_seconds() -> float:
    """CPU time of the whole machine so far, idle time, waits for disks and stolen time left out."""
    fields = list(map(int, (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]))
    return (sum(fields[:3]) + sum(fields[5:7])) / os.sysconf("SC_CLK_TCK")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            yield name, value.strip()
