"""`kimi-k2 worker` as a process: its health, its exit codes, wrong arguments. tests/engine/test_nodes has the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.demo import demo

__all__ = ["demo"]

pytest.importorskip("torch", reason="a worker runs SGLang")

COMMAND = ("worker", "--preset", "demo-2-nodes", "--node-rank", "1")
# As `python -m kimi_k2_cli.main`, but that its own pauses are a minute long.
PATIENT = """
import sys
from kimi_k2_cli import main, worker as command
from kimi_k2_serving.engine.nodes import worker
command.HEALTH_SECONDS = worker.CONNECT_SECONDS = 60.0
sys.exit(main.main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65_000)


@contextmanager
def worker(demo: Path, *flags: str, patient: bool = False) -> Iterator[subprocess.Popen[str]]:
    program = ["-c", PATIENT] if patient else ["-m", "kimi_k2_cli.main"]
    command = [sys.executable, *program, *COMMAND, "--checkpoint", str(demo), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def health(port: int) -> httpx.Response:
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
        except httpx.TransportError:
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)


def test_a_worker_without_rank_0_says_so_and_sigterm_ends_it_with_0(demo: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{free_port()}"
    with worker(demo, "--address", address, "--health-port", str(port), patient=True) as process:
        answer = health(port)
        assert (answer.status_code, answer.json()) == (503, {"serving": False, "trouble": "rank 0 is not heard"})
        assert httpx.get(f"http://127.0.0.1:{port}/other", timeout=5).status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--address", "nowhere"), "must be HOST:PORT"),
        (("--preset", "nonsense"), "no preset 'nonsense'"),
        (("--checkpoint", "/nowhere"), "no such directory"),
    ],
)
def test_wrong_arguments_end_it_with_2_and_one_line(demo: Path, flags: tuple[str, str], says: str) -> None:
    with worker(demo, *flags, "--health-port", str(free_port())) as process:
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said.count("\n")) == (2, 1), said
        assert says in said


def test_a_taken_health_port_is_said(demo: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with worker(demo, "--address", "127.0.0.1:20000", "--health-port", str(taken.getsockname()[1])) as process:
            _, said = process.communicate(timeout=30)
            assert process.returncode == 2
            assert "--health-port: can't listen there" in said
