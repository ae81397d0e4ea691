"""A real server for a test: `scripts/serve` on ports of its own, and what it leaves behind when it is gone."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS = 240.0


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    http: int
    grpc: int
    metrics: int
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def generate(self, model: str = "kimi_k2", *, stream: bool = False) -> str:
        return f"{self.url}/v2/models/{model}/generate{'_stream' if stream else ''}"

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, title: str) -> psutil.Process:
        (found,) = [each for each in self.processes() if title in titles(each)]
        return found

    def restarts(self) -> float:
        """How often the engine was started again, from Triton's metrics."""
        lines = httpx.get(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30).text.splitlines()
        (count,) = [float(line.split()[-1]) for line in lines if line.startswith("sglang_backend:engine_restarts{")]
        return count

    def stop(self, seconds: float = 30) -> float:
        """SIGTERM, and how long it took to be gone."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(seconds)
        return time.monotonic() - begin


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to outgoing connections: a server binds its own
    only after it has loaded its models, and a connection of another process must not have one of them by then.
    """
    (first_outgoing, _) = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10_000, first_outgoing), first_outgoing - 10_000):
        with socket.socket() as each:
            try:
                each.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


@contextmanager
def running(*flags: str, **variables: str) -> Iterator[Server]:
    """Start, wait for READY, yield, stop. Whatever still runs at the end is killed. `variables`: of its environment.
    The model writes random text unless the flags say otherwise.
    """
    http, grpc, metrics = free_ports(3)
    preset = () if "--preset" in flags else ("--preset", "demo-random")
    command = [
        str(ROOT / "scripts" / "serve"),
        *("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)),
        *("--no-frontend", "--json", *preset, *flags),
    ]
    log = ROOT / ".cache" / "logs" / f"test-serve-{http}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment() | variables
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"serve ended with {process.wait(START_SECONDS)}:\n{log.read_text()[-4000:]}"
        yield Server(process, http, grpc, metrics, json.loads(line))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


def environment() -> dict[str, str]:
    """Ours, less what would change which checkpoint or preset is served."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KIMI_K2_")}


def wait_for(url: str, seconds: float, process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    """Until `url` answers 200: within `seconds`, and while `process` lives."""

    def said() -> str:
        return f"\n{log.read_text()[-4000:]}" if log else ""

    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process is not None:
            assert process.poll() is None, f"ended with {process.returncode} before {url} answered{said()}"
        assert time.monotonic() < deadline, f"{url} did not answer within {seconds:g} s{said()}"
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """SIGTERM, and SIGKILL if that takes longer than `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def titles(process: psutil.Process) -> str:
    """Its name and its command line; nothing if it ended meanwhile, which is not the server's end."""
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:
        return ""


def shared_memory(processes: Iterable[psutil.Process]) -> set[Path]:
    """What these processes have mapped of /dev/shm: others on the machine have theirs."""
    found = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            continue
        found |= {Path(line[line.index("/dev/shm/") :]) for line in maps.splitlines() if "/dev/shm/" in line}
    return found


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
