"""What a server's processes hold: at rest, with streams under way, and with connections that send nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.bench.serving.processes import Memory, Tree

LOOK_SECONDS = 0.25
CONNECTIONS = 200


class Peak:
    """Looks at a tree's memory from a thread until it is left; `largest` is the look with the largest sum."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.largest: dict[str, Memory] = {}

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            now = self._tree.memory()
            if total(now) >= total(self.largest):
                self.largest = now


def total(memory: Mapping[str, Memory]) -> float:
    return sum(each.pss for each in memory.values())


def memory_row(idle: Mapping[str, Memory], busy: Mapping[str, Memory], streams: int) -> dict[str, Any]:
    return {
        "streams": streams,
        "idle_pss_mib": {name: round(each.pss, 1) for name, each in idle.items()},
        "idle_rss_mib": {name: round(each.rss, 1) for name, each in idle.items()},
        "growth_pss_kib_per_stream": {
            name: round(1024 * (each.pss - idle.get(name, Memory()).pss) / streams, 1) for name, each in busy.items()
        },
    }


def idle_connections(tree: Tree, address: str, path: str) -> dict[str, float]:
    """KiB by process for each of CONNECTIONS that have had one answer and stay open."""
    host, _, port = address.rpartition(":")
    probe = "/v2/health/live" if path.startswith("/v2/") else "/v1/models"
    request = f"GET {probe} HTTP/1.1\r\nhost: {address}\r\n\r\n".encode()
    before = tree.memory()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            each = stack.enter_context(socket.create_connection((host, int(port)), 30))
            each.sendall(request)
            each.recv(1 << 16)
        time.sleep(LOOK_SECONDS)
        after = tree.memory()
    grown = {name: 1024 * (now.pss - before.get(name, Memory()).pss) / CONNECTIONS for name, now in after.items()}
    return {name: round(size, 1) for name, size in grown.items() if size >= 0.1}
