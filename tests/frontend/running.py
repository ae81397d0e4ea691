"""A frontend as a process on a free port: over a real server's gRPC, or over the scripted engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.server.running import ROOT, Server, end, environment, free_ports, titles, wait_for

START_SECONDS = 60.0


@contextmanager
def over(server: Server, *flags: str, **variables: str) -> Iterator[str]:
    """The frontend of `scripts/serve` with flags and variables of one's own; its URL."""
    checkpoint = ("--checkpoint", server.ready["checkpoint"])
    with _process(
        "kimi_k2_serving.frontend", "--grpc-url", f"127.0.0.1:{server.grpc}", *checkpoint, *flags, **variables
    ) as url:
        yield url


@contextmanager
def another(server: Server) -> Iterator[tuple[str, psutil.Process]]:
    """A frontend that reads ids from the engine's socket, and its process."""
    with over(server, "--runtime-dir", str(runtime(server))) as url:
        port = url.rpartition(":")[2]
        (process,) = [each for each in psutil.Process(os.getpid()).children() if f"--port {port} " in titles(each)]
        yield url, process


def runtime(server: Server) -> Path:
    """The directory of its sockets."""
    return Path(server.named("kimi_k2_engine_0_0").environ()["KIMI_K2_RUNTIME_DIR"])


@contextmanager
def scripted(*flags: str) -> Iterator[str]:
    with _process("tests.frontend.serve_scripted", *flags) as url:
        yield url


@contextmanager
def _process(module: str, *flags: str, **variables: str) -> Iterator[str]:
    (port,) = free_ports(1)
    log = ROOT / ".cache" / "logs" / f"test-{module.rpartition('.')[2]}-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command: Sequence[str] = [sys.executable, "-m", module, "--port", str(port), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=environment() | variables)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/ready", START_SECONDS, process, log)
        yield url
    finally:
        end(process, 20)
