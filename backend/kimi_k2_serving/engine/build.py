"""Builds an engine from an EngineConfig: SGLang's arguments, environment and process. The engine is not started here.

No remote code runs: `trust_remote_code` is off, and SGLang gets a tokenizer directory that needs none.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Awaitable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue, MissingField
from kimi_k2_serving.engine import host_process
from kimi_k2_serving.engine.adapters import adapter_args, check_directories
from kimi_k2_serving.engine.checkpoint import Checkpoint, tokenizer_directory
from kimi_k2_serving.engine.config import DIST_INIT_ADDR, EngineConfig
from kimi_k2_serving.engine.host_process import HostProcess
from kimi_k2_serving.engine.nodes import messages
from kimi_k2_serving.engine.nodes.meeting import Group, Meeting, split_address
from kimi_k2_serving.engine.nodes.worker import NodeWorker
from kimi_k2_serving.engine.supervisor import SupervisedEngine

# Arguments that no configuration may set, because the host relies on them or they could run remote code.
RESERVED = ("model_path", "tokenizer_path", "trust_remote_code", "incremental_streaming_output", "skip_tokenizer_init")

HOST_ADDRESS = "SGLANG_HOST_IP"
# A worker learns the number of ranks from rank 0. On a CPU it never runs more ranks than this.
CPU_RANKS = 64


def build_supervised(
    config: EngineConfig,
    checkpoint: Checkpoint,
    *,
    cache: Path,
    runtime: Path,
    environ: Mapping[str, str],
    server: int = 0,
    token_socket: Path | None = None,
    warm_up: bool = True,
    trace_endpoint: str = "",
) -> SupervisedEngine:
    """`runtime`: the directory for the engine's sockets. `environ`: the environment that the host process inherits.
    `server`: the process whose end also ends the engine; 0 for none. `token_socket`: the path of the socket for readers
    of ids; None for no socket. `warm_up`: see engine/warm_up. `trace_endpoint`: the address to which SGLang sends its
    spans; "" for none.
    """
    nodes = node_count(config)
    ranks = int(config.server_args.get("tp_size", 1)) * int(config.server_args.get("pp_size", 1))
    environment = engine_environment(config, checkpoint, environ, ranks=ranks)
    command = [python(), "-m", "kimi_k2_serving.engine.host", str(server)]
    args = server_args(config, checkpoint, cache)
    if trace_endpoint:
        args |= {"enable_trace": True, "otlp_traces_endpoint": trace_endpoint, "otlp_service_name": "kimi-k2-engine"}
    meeting = Meeting(group_of(config, checkpoint)) if nodes > 1 else None

    def spawn() -> Awaitable[HostProcess]:
        own = environment if meeting is None else at_address(environment, meeting.local_address)
        return host_process.spawn(command, own, runtime, nodes=nodes)

    return SupervisedEngine(
        spawn,
        args,
        start_timeout=config.preset.start_timeout_seconds,
        stall_seconds=config.preset.stall_seconds,
        silent_seconds=config.preset.silent_seconds,
        steps_on_cpu=config.server_args.get("device") == "cpu",
        token_socket=token_socket,
        reader_seconds=config.preset.slow_reader_seconds,
        warm_up=warm_up,
        nodes=meeting,
        restart=config.restart,
    )


def build_worker(
    config: EngineConfig,
    checkpoint: Checkpoint,
    *,
    rank: int,
    address: str,
    cache: Path,
    runtime: Path,
    environ: Mapping[str, str],
) -> NodeWorker:
    """The worker of a node other than rank 0's. `address`: rank 0's host and port."""
    environment = engine_environment(config, checkpoint, environ, ranks=CPU_RANKS) | {
        "SGLANG_BLOCK_NONZERO_RANK_CHILDREN": "0"
    }
    command = [python(), "-m", "kimi_k2_serving.engine.host", "0"]
    own = {**paths(checkpoint, cache), "trust_remote_code": False, "node_rank": rank}
    return NodeWorker(
        address,
        messages.Hello(rank, config.preset.name, software(), checkpoint.tokenizer_hash),
        own,
        lambda local: host_process.spawn(command, at_address(environment, local), runtime, nodes=2),
        patience=config.preset.start_timeout_seconds,
    )


def at_address(environment: Mapping[str, str], address: str) -> dict[str, str]:
    """The environment in which the ranks exchange messages at this address of the node. SGLang would choose the address
    of the default route, which the other nodes may not reach.
    """
    return {HOST_ADDRESS: address, **environment}


def node_count(config: EngineConfig) -> int:
    return int(config.server_args.get("nnodes", 1))


def group_of(config: EngineConfig, checkpoint: Checkpoint) -> Group:
    """The group of nodes of this engine. Raises MissingField or InvalidValue."""
    address = config.server_args.get("dist_init_addr")
    if not address:
        raise MissingField("set it to HOST:PORT of rank 0, as the other nodes reach it", field="engine.dist_init_addr")
    split_address(str(address))
    return Group(
        address=str(address),
        nodes=node_count(config),
        preset=config.preset.name,
        software=software(),
        checkpoint=checkpoint.tokenizer_hash,
        restart=config.restart,
    )


def meeting_address(config: EngineConfig, environ: Mapping[str, str]) -> str:
    """Rank 0's address for a worker: the preset's, or the variable that presets refer to. Raises MissingField."""
    address = config.server_args.get("dist_init_addr") or environ.get(DIST_INIT_ADDR)
    if not address:
        raise MissingField("name rank 0's HOST:PORT", field="--address")
    return str(address)


def software() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("kimi-k2-triton", "sglang", "torch"))


def engine_environment(
    config: EngineConfig, checkpoint: Checkpoint, environ: Mapping[str, str], *, ranks: int
) -> dict[str, str]:
    """The environment of the engine. `ranks`: at least the number of its ranks."""
    # A grammar that allows no token leaves a row of logits without a finite number. Sampling from it ends SGLang's
    # scheduler, for all requests. With sanitized logits only that request fails.
    finite = {"SGLANG_SANITIZE_NAN_LOGITS": "1"}
    environment = {**environ, "HF_HUB_OFFLINE": "1", **finite, **config.preset.environment}
    if checkpoint.is_k2:
        # SGLang then imports one model class instead of its 285.
        environment["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "kimi_k2_serving.engine.models"
    if config.server_args.get("device") == "cpu" and ranks > 1:
        # SGLang requires the cores of each rank here. Without AMX it then leaves the choice to the kernel.
        environment.setdefault("SGLANG_CPU_OMP_THREADS_BIND", "|".join([f"0-{(os.cpu_count() or 1) - 1}"] * ranks))
    return environment


def server_args(config: EngineConfig, checkpoint: Checkpoint, cache: Path) -> dict[str, Any]:
    for name in RESERVED:
        if name in config.server_args:
            raise InvalidValue("the backend sets it itself; remove it", field=f"engine.{name}")
    check_directories(config.adapters)
    return {
        **adapter_args(config.adapters, config.server_args),
        "log_level": "warning",
        **config.server_args,
        **paths(checkpoint, cache),
        "trust_remote_code": False,
        "incremental_streaming_output": True,
    }


def paths(checkpoint: Checkpoint, cache: Path) -> dict[str, str]:
    return {"model_path": str(checkpoint.path), "tokenizer_path": str(tokenizer_directory(checkpoint, cache))}


def python() -> str:
    """The Python of this environment. Inside Triton's stub `sys.executable` is the first Python on PATH instead."""
    found = shutil.which("python3", path=str(Path(sys.prefix) / "bin"))
    return found or sys.executable
