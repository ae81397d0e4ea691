"""What the server's own processes and metrics say: requests left, KV in use, files, memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.server.running import Server, shared_memory, titles

# The supervisor's line.
RESTARTED = "the engine serves again after "
# Thread names, as far as the kernel keeps them.
GRPC_POOLS = frozenset({"event_engine", "default-executo", "resolver-execut", "timer_manager", "grpc_global_tim"})


@dataclass(frozen=True, slots=True)
class State:
    """Counts at one moment; `memory` in MiB, of Triton and its stubs (the engine is replaced, they stay). Their
    `threads` by process and name.
    """

    requests: int
    kv_usage: float
    files: int
    threads: Counter[str]
    processes: int
    shared: int
    memory: float

    def leaks_since(self, before: State) -> str:
        """What there is more of; "none" where nothing is."""
        grown = {
            "requests": self.requests - before.requests,
            "fds": self.files - before.files,
            f"threads ({', '.join(sorted((self.threads - before.threads).elements()))})": (
                self.threads.total() - before.threads.total()
            ),
            "processes": self.processes - before.processes,
            "shm": self.shared - before.shared,
        }
        return ", ".join(f"{count} {name}" for name, count in grown.items() if count > 0) or "none"


def metrics(server: Server) -> dict[str, float]:
    """Ours and SGLang's, by name, and where there is one by the value of the label beside the model's."""
    text = httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=30).text
    found = {}
    for line in text.splitlines():
        if line.startswith("sglang"):
            name, _, value = line.rpartition(" ")
            own = [label for label in name.partition("{")[2].rstrip("}").split(",") if not label.startswith("model")]
            found[":".join([name.partition("{")[0], *(label.split('"')[1] for label in own if label)])] = float(value)
    return found


def staying(server: Server) -> list[psutil.Process]:
    """Triton and its stubs."""
    names = ("tritonserver", "triton_python_b")
    return [each for each in server.processes() if titles(each).startswith(names)]


def own_threads(process: psutil.Process) -> Counter[str]:
    """All but those of gRPC's pools, which grow with load and shrink when they get to it."""
    names = [path.read_text().strip() for path in Path(f"/proc/{process.pid}/task").glob("*/comm")]
    return Counter(f"{process.name()} {process.pid}: {name}" for name in names if name not in GRPC_POOLS)


def look(server: Server) -> State:
    found = metrics(server)
    processes = server.processes()
    kept = staying(server)
    in_flight = ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang_backend:waiting_requests")
    return State(
        requests=int(sum(found[name] for name in in_flight)),
        kv_usage=found["sglang:token_usage"],
        files=sum(each.num_fds() for each in kept),
        threads=sum(map(own_threads, kept), Counter()),
        processes=len(processes),
        shared=sum(entry.exists() for entry in shared_memory(processes)),
        memory=sum(each.memory_info().rss for each in kept) / 2**20,
    )


def last_start(server: Server) -> float:
    """How long the engine's last restart took, in seconds, by its own account."""
    lines = Path(server.ready["log"]).read_text().splitlines()
    said = [line for line in lines if line.startswith(RESTARTED)]
    return float(said[-1].removeprefix(RESTARTED).split()[0])


async def idle(server: Server, seconds: float = 60) -> float:
    """Wait until no request is left anywhere; how long it took."""
    return await until(lambda: look(server).requests == 0 and look(server).kv_usage == 0, seconds)


async def settled(server: Server, before: State, seconds: float = 5) -> State:
    """The state once nothing has leaked, or after `seconds`: Triton closes connections when it gets to it."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: look(server).leaks_since(before) == "none", seconds)
    return look(server)


async def until(condition: Callable[[], bool], seconds: float) -> float:
    begin = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - begin > seconds:
            raise TimeoutError("it did not happen in time")
        await asyncio.sleep(0.02)
    return time.monotonic() - begin
