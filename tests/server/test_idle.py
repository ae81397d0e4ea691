"""A server with nothing to do sleeps: no process of it wakes all the time to see whether there is work."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from tests.server.running import Server, titles

CHAT = {"text_input": "Hello", "max_tokens": 8}
# Periodic work goes on for a second after the last request, and once per second from then on.
CALM_SECONDS = 3.0
SECONDS = 10.0
# All threads together, per second. Measured: 46. Before the rests: 1,080.
WAKES = 120.0


def wakes(server: Server) -> dict[tuple[int, str], int]:
    """By process, how often its threads have waited for something so far."""
    found = {}
    for process in [psutil.Process(server.process.pid), *server.processes()]:
        count = 0
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            with suppress(OSError):
                lines = (task / "status").read_text().splitlines()
                count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
        found[process.pid, titles(process)] = count
    return found


def test_an_idle_server_hardly_wakes(server: Server) -> None:
    assert httpx.post(server.generate(), json=CHAT, timeout=60).status_code == 200
    time.sleep(CALM_SECONDS)
    before, begun = wakes(server), time.monotonic()
    time.sleep(SECONDS)
    passed = time.monotonic() - begun
    each = {name: (count - before.get(name, 0)) / passed for name, count in wakes(server).items()}
    assert sum(each.values()) < WAKES, each
    assert httpx.post(server.generate(), json=CHAT, timeout=60).status_code == 200
