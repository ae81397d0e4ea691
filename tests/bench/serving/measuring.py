"""Measures arms in turn: rounds alternate between them, so that whatever else the machine does disturbs all alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from tests.bench.serving.arms import ARMS, Arm
from tests.bench.serving.figures import Round
from tests.bench.serving.load import Driver
from tests.bench.serving.memory import Peak, idle_connections, memory_row
from tests.bench.serving.processes import busy_seconds, difference
from tests.bench.serving.servers import LOGS, Server
from tests.bench.serving.workload import Chats, Workload

WARM_TOKENS = 24


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
            say(f"warming up {arm.name}")
            server = self.servers[arm.server]
            chats = self.chats.chats(Workload("warm", 64, WARM_TOKENS), streams)
            with server.measured():
                idle = server.tree.memory()
                with Peak(server.tree) as peak:
                    arm.driver(server, self.clients).run(arm.load(server, chats, streams))
                self.memory[arm.name] = memory_row(idle, peak.largest, streams)

    def measure_idle_connections(self) -> None:
        """Adds to `memory` what an open connection without a request costs each server with HTTP."""
        for arm in self.arms:
            if arm.path.startswith("/"):
                server = self.servers[arm.server]
                with server.measured():
                    found = idle_connections(server.tree, server.addresses[arm.address], arm.path)
                self.memory[arm.name]["idle_connection_pss_kib"] = found

    def measure(self, plan: Plan, deadline: float) -> dict[str, dict[int, dict[str, list[Round]]]]:
        """Rounds by workload, concurrency and arm: at least one, then as many of the plan's as end by `deadline`."""
        found: dict[str, dict[int, dict[str, list[Round]]]] = {
            workload.name: {level: {arm.name: [] for arm in self.arms} for level in plan.requests}
            for workload in plan.workloads
        }
        longest = 0.0
        for number in range(plan.rounds):
            began = time.monotonic()
            if number and began + longest > deadline:
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


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def chosen(names: Sequence[str]) -> list[Arm]:
    return [arm for arm in ARMS if arm.name in names]
