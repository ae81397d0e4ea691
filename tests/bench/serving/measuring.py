"""Measures arms in turn: rounds alternate between them, so that whatever else the machine does disturbs all alike."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tests.bench.serving.arms import ARMS, Arm
from tests.bench.serving.figures import Round
from tests.bench.serving.load import Driver
from tests.bench.serving.processes import Memory, Tree, busy_seconds, difference
from tests.bench.serving.servers import LOGS, Server
from tests.bench.serving.workload import Chats, Workload

WARM_TOKENS = 24
MEMORY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests`: how many of a round by how many are under way at once."""

    workloads: Sequence[Workload]
    requests: Mapping[int, int]
    rounds: int


@dataclass(slots=True)
class Bench:
    """`servers` are up and stopped; `arms` need no others. `memory`: by arm, before its first load and under it."""

    servers: Mapping[str, Server]
    arms: Sequence[Arm]
    chats: Chats
    clients: dict[str, Driver] = field(default_factory=dict)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    def start_clients(self) -> None:
        self.clients = start_drivers(self.arms)

    def end_clients(self) -> None:
        for driver in self.clients.values():
            driver.end()

    def warm_up(self, streams: int) -> None:
        """One load of every arm, for lazy imports and allocations; memory is looked at meanwhile."""
        for arm in self.arms:
            server = self.servers[arm.server]
            chats = self.chats.chats(Workload("warm", 64, WARM_TOKENS), streams)
            with server.measured():
                idle = server.tree.memory()
                with Peak(server.tree) as peak:
                    arm.driver(server, self.clients).run(arm.load(server, chats, streams))
                self.memory[arm.name] = memory_row(idle, peak.largest, streams)

    def measure(self, plan: Plan, deadline: float) -> dict[str, dict[int, dict[str, list[Round]]]]:
        """Rounds by workload, concurrency and arm: at least one, then as many of the plan's as end by `deadline`."""
        found: dict[str, dict[int, dict[str, list[Round]]]] = {
            workload.name: {level: {arm.name: [] for arm in self.arms} for level in plan.requests}
            for workload in plan.workloads
        }
        longest = 0.0
        for number in range(plan.rounds):
            began = time.monotonic()
            if began + longest > deadline:
                say(f"{number} of {plan.rounds} rounds: the next one would end too late")
                break
            for workload, level, arm in product(plan.workloads, plan.requests, self.arms):
                each = self.one_round(arm, workload, level, plan.requests[level])
                found[workload.name][level][arm.name].append(each)
                say(
                    f"{workload.name} {level:3} {arm.name:14} {each.rate:7.0f} tokens/s in {each.outcome.seconds:.1f} s"
                )
            longest = max(longest, time.monotonic() - began)
        return found

    def one_round(self, arm: Arm, workload: Workload, concurrency: int, requests: int) -> Round:
        server = self.servers[arm.server]
        driver = arm.driver(server, self.clients)
        load = arm.load(server, self.chats.chats(workload, requests), concurrency)
        with server.measured():
            before, busy = server.tree.sample(), busy_seconds()
            outcome = driver.run(load)
            spent = difference(before, server.tree.sample())
            busy = busy_seconds() - busy
        ours = sum(each.seconds for each in spent.values())
        if server.driver is None:
            ours += outcome.processor
        return Round(outcome, spent, max(busy - ours, 0.0) / outcome.seconds)


def start_drivers(arms: Sequence[Arm]) -> dict[str, Driver]:
    """Those that have a process of their own, by module."""
    found = {}
    for name in sorted({arm.client for arm in arms if arm.client is not None}):
        found[name] = Driver(f"tests.bench.serving.{name}", log=LOGS / f"bench-{name}.log")
        found[name].wait()
    return found


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
        while not self._over.wait(MEMORY_SECONDS):
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


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def chosen(names: Sequence[str]) -> list[Arm]:
    return [arm for arm in ARMS if arm.name in names]
