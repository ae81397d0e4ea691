"""Builds an engine from an EngineConfig: SGLang's arguments, environment and process. The engine is not started here.

No remote code runs: `trust_remote_code` is off, and SGLang gets a tokenizer directory that needs none.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.engine import host_process
from kimi_k2_serving.engine.checkpoint import Checkpoint, tokenizer_directory
from kimi_k2_serving.engine.config import EngineConfig
from kimi_k2_serving.engine.supervisor import SupervisedEngine

# Arguments that no configuration may set: the host relies on them, or they could run remote code.
RESERVED = ("model_path", "tokenizer_path", "trust_remote_code", "incremental_streaming_output", "skip_tokenizer_init")


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
) -> SupervisedEngine:
    """`runtime`: the directory for the engine's sockets. `environ`: the host process inherits it. `server`: the engine
    ends with this process; 0 for none. `token_socket`: where readers of ids connect; None for nowhere. `warm_up`: see
    engine/warm_up.
    """
    # A grammar that allows no token leaves a row of logits without a finite number. Sampling from it ends SGLang's
    # scheduler, for all requests. With sanitized logits only that request fails.
    finite = {"SGLANG_SANITIZE_NAN_LOGITS": "1"}
    environment = {**environ, "HF_HUB_OFFLINE": "1", **finite, **config.preset.environment}
    if checkpoint.is_k2:
        # SGLang then imports one model class instead of its 285.
        environment["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "kimi_k2_serving.engine.models"
    command = [python(), "-m", "kimi_k2_serving.engine.host", str(server)]
    return SupervisedEngine(
        lambda: host_process.spawn(command, environment, runtime, nodes=int(config.server_args.get("nnodes", 1))),
        server_args(config, checkpoint, cache),
        start_timeout=config.preset.start_timeout_seconds,
        stall_seconds=config.preset.stall_seconds,
        silent_seconds=config.preset.silent_seconds,
        steps_on_cpu=config.server_args.get("device") == "cpu",
        token_socket=token_socket,
        reader_seconds=config.preset.slow_reader_seconds,
        warm_up=warm_up,
    )


def server_args(config: EngineConfig, checkpoint: Checkpoint, cache: Path) -> dict[str, Any]:
    for name in RESERVED:
        if name in config.server_args:
            raise InvalidValue("the backend sets it itself; remove it", field=f"engine.{name}")
    return {
        "log_level": "warning",
        **config.server_args,
        "model_path": str(checkpoint.path),
        "tokenizer_path": str(tokenizer_directory(checkpoint, cache)),
        "trust_remote_code": False,
        "incremental_streaming_output": True,
    }


def python() -> str:
    """The Python of this environment. Inside Triton's stub `sys.executable` is the first Python on PATH instead."""
    found = shutil.which("python3", path=str(Path(sys.prefix) / "bin"))
    return found or sys.executable
