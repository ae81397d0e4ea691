"""A frontend as a process on a free port: over a real server's gRPC, or over the scripted engine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.server.running import ROOT, Server, environment, free_ports

START_SECONDS = 60.0


@contextmanager
def over(server: Server, *flags: str) -> Iterator[str]:
    """The frontend of `scripts/serve` with flags of one's own; its URL."""
    checkpoint = ("--checkpoint", server.ready["checkpoint"])
    with _process("kimi_k2_serving.frontend", "--grpc-url", f"127.0.0.1:{server.grpc}", *checkpoint, *flags) as url:
        yield url


@contextmanager
def scripted(*flags: str) -> Iterator[str]:
    with _process("tests.frontend.serve_scripted", *flags) as url:
        yield url


@contextmanager
def _process(module: str, *flags: str) -> Iterator[str]:
    (port,) = free_ports(1)
    log = ROOT / ".cache" / "logs" / f"test-{module.rpartition('.')[2]}-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command: Sequence[str] = [sys.executable, "-m", module, "--port", str(port), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=environment())
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, f"the frontend ended with {process.returncode}:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"the frontend did not become ready:\n{log.read_text()[-4000:]}"
        time.sleep(0.1)
