"""A frontend as a process on a free port: over a real server's gRPC, or over the scripted engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.server.running import ROOT, Server, end, environment, free_ports, wait_for

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
