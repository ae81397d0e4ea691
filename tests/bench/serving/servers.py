"""The servers side by side: the same checkpoint, engine arguments, stream interval and environment for all.

All are up, and all but the one that is measured are stopped as whole process trees (SIGSTOP), so that no idle loop of
another server is in the figures. An engine without requests takes no harm: our stall detector counts no time then.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine import linux
from kimi_k2_serving.engine.build import server_args
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.engine.config import EngineConfig, engine_of_preset
from tests.bench.serving.load import Driver
from tests.bench.serving.processes import Tree, end_group
from tests.server.running import ROOT, environment, free_ports, wait_for
from tests.support.template import TEMPLATE

START_SECONDS = 300.0
# For timers that have run out meanwhile.
SETTLE_SECONDS = 0.3
LOGS = ROOT / ".cache" / "logs"
OURS, BARE, PYTHON, RUST = "ours", "bare", "sglang_python", "sglang_rust"
# This project's plugin for the CPU, without which SGLang does not run here, and not the one that changes its grammars.
ALONE = {"SGLANG_PLUGINS": "kimi_k2_cpu"}
PORTS = {OURS: 4, BARE: 0, PYTHON: 1, RUST: 1}


@dataclass(frozen=True, slots=True)
class Server:
    """`addresses`: host:port by protocol, http and grpc (Triton's) and openai. `driver`: the bare engine's own."""

    name: str
    tree: Tree
    addresses: Mapping[str, str]
    driver: Driver | None = None

    @contextmanager
    def measured(self) -> Iterator[None]:
        self.tree.resume()
        time.sleep(SETTLE_SECONDS)
        try:
            yield
        finally:
            self.tree.pause()


@contextmanager
def started(names: set[str], checkpoint: Path, preset: str, ports: Ports) -> Iterator[dict[str, Server]]:
    """The named servers, ready and stopped."""
    config = engine_of_preset(checkpoint, preset, {})
    LOGS.mkdir(parents=True, exist_ok=True)
    starts = {OURS: _ours, BARE: _bare, PYTHON: _python, RUST: _rust}
    with ExitStack() as stack, ThreadPoolExecutor() as threads:

        def start(name: str) -> Server:
            began = time.monotonic()
            server = stack.enter_context(starts[name](config, taken[name]))
            stack.callback(server.tree.resume)
            print(f"bench: {name} is ready after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            server.tree.pause()
            return server

        # A server ends with the thread that started it. Those threads live as long as this block.
        # A server's ports are taken before any server starts, so that no two get the same.
        taken = {name: ports.take(PORTS[name]) for name in sorted(names)}
        # Ours has a time limit for its start, so it starts alone.
        alone = {name: start(name) for name in taken if name == OURS}
        rest = [name for name in taken if name != OURS]
        yield {**alone, **dict(zip(rest, threads.map(start, rest), strict=True))}


@dataclass(slots=True)
class Ports:
    """Free ports; from `first` on if it is given, else anywhere."""

    first: int | None = None

    def take(self, count: int) -> list[int]:
        if self.first is None:
            return free_ports(count)
        taken = list(range(self.first, self.first + count))
        self.first += count
        return taken


@contextmanager
def _ours(config: EngineConfig, ports: list[int]) -> Iterator[Server]:
    http, grpc, metrics, openai = ports
    flags = {"--http-port": http, "--grpc-port": grpc, "--metrics-port": metrics, "--frontend-port": openai}
    command = [str(ROOT / "scripts" / "serve"), "--json", "--preset", config.preset.name]
    command += ["--checkpoint", str(config.checkpoint), *(str(word) for pair in flags.items() for word in pair)]
    log = LOGS / f"bench-serve-{http}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
            preexec_fn=linux.die_with_parent,
        )
    tree = Tree((process.pid,), "launcher")
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"bench: serve did not start; {log} says:\n{log.read_text()[-3000:]}")
        yield Server(
            OURS,
            tree,
            {"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}", "openai": f"127.0.0.1:{openai}"},
        )
    finally:
        tree.resume()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _bare(config: EngineConfig, ports: list[int]) -> Iterator[Server]:
    del ports
    driver = Driver(
        "tests.bench.serving.bare_engine",
        json.dumps(_arguments(config)),
        log=LOGS / "bench-engine.log",
        environment=_environment(config),
    )
    try:
        driver.wait()
        yield Server(BARE, Tree((driver.pid,)), {}, driver)
    finally:
        driver.end()


@contextmanager
def _python(config: EngineConfig, ports: list[int]) -> Iterator[Server]:
    with _sglang(PYTHON, config, ports, {}) as server:
        yield server


@contextmanager
def _rust(config: EngineConfig, ports: list[int]) -> Iterator[Server]:
    with _sglang(RUST, config, ports, {"SGLANG_RUST_SERVER": "1"}) as server:
        yield server


@contextmanager
def _sglang(name: str, config: EngineConfig, ports: list[int], own: dict[str, str]) -> Iterator[Server]:
    (port,) = ports
    with tempfile.TemporaryDirectory() as directory, (LOGS / f"bench-{name}.log").open("w") as log:
        template = Path(directory) / "template.jinja"
        template.write_text(TEMPLATE)
        extra = {"chat_template": str(template), "served_model_name": "kimi_k2", "tool_call_parser": "kimi_k2"}
        arguments = {**_arguments(config), **extra, "port": port, "host": "127.0.0.1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.serving.sglang_server", json.dumps(arguments)],
            cwd=ROOT,
            env={**_environment(config), **ALONE, **own},
            stdout=log,
            stderr=log,
            start_new_session=True,
            # SIGKILL, for it is stopped most of the time.
            preexec_fn=partial(linux.die_with_parent, signal.SIGKILL),
        )
        try:
            # Unlike the others, SGLang's servers answer before their first generation.
            wait_for(f"http://127.0.0.1:{port}/health", START_SECONDS, process, Path(log.name))
            tree = Tree((process.pid,), "launcher" if name == RUST else "http_server", rust=name == RUST)
            yield Server(name, tree, {"openai": f"127.0.0.1:{port}"})
        finally:
            end_group(process.pid)
            process.wait()


def _arguments(config: EngineConfig) -> dict[str, Any]:
    return server_args(config, inspect_checkpoint(config.checkpoint), ROOT / ".cache")


def _environment(config: EngineConfig) -> dict[str, str]:
    own = {"HF_HUB_OFFLINE": "1", "SGLANG_EXTERNAL_MODEL_PACKAGE": "kimi_k2_serving.engine.models"}
    return {**environment(), **own, "SGLANG_SANITIZE_NAN_LOGITS": "1", **config.preset.environment}
