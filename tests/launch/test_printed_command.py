"""The line that `serve --print-command` prints starts a real server when it is pasted into a shell."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from kimi_k2_serving.launch import ready
from kimi_k2_serving.launch.layout import checkout
from tests.server.running import environment, free_ports


@pytest.mark.server
def test_the_printed_command_starts_a_server(tmp_path: Path) -> None:
    http, grpc, metrics = free_ports(3)
    ports = ("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics))
    serve = [str(checkout().root / "scripts" / "serve"), "--print-command", "--no-frontend", *ports]
    printed = subprocess.run(serve, capture_output=True, text=True, check=True, env=environment(), timeout=300)
    assert len(printed.stdout.splitlines()) == 1
    log = tmp_path / "log"
    with log.open("w") as output:
        shell = ["bash", "-c", f"exec {printed.stdout}"]
        triton = subprocess.Popen(shell, stdout=output, stderr=subprocess.STDOUT, env=environment())
    try:
        deadline = time.monotonic() + 120
        while not ready.is_ready("127.0.0.1", http, ready.MODEL):
            assert triton.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        triton.send_signal(signal.SIGTERM)
        triton.wait(30)
    finally:
        triton.kill()
        triton.wait()
