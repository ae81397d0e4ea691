"""From an EngineConfig to an engine that can be started: SGLang's arguments, environment and process.

No remote code: SGLang gets `trust_remote_code` off and a tokenizer directory that needs none.
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

# Ours to decide: what the host relies on, and what would run a stranger's code.
RESERVED = ("model_path", "tokenizer_path", "trust_remote_code", "incremental_streaming_output", "skip_tokenizer_init")


def build_supervised(
    config: EngineConfig,
    checkpoint: Checkpoint,
    *,
    cache: Path,
    runtime: Path,
    environ: Mapping[str, str],
    server: int = 0,
) -> SupervisedEngine:
    """`runtime` holds the engine's sockets while it runs; `environ` is what the host process inherits; the engine ends
    with the process `server`, if that is not 0.
    """
    # A grammar that no text satisfies leaves a row of logits without a finite number, and drawing from it ends the
    # scheduler for everybody. With finite ones that request alone fails.
    finite = {"SGLANG_SANITIZE_NAN_LOGITS": "1"}
    environment = {**environ, "HF_HUB_OFFLINE": "1", **finite, **config.preset.environment}
    if checkpoint.is_k2:
        # SGLang then imports this one model class and not its 285.
        environment["SGLANG_EXTERNAL_MODEL_PACKAGE"] = "kimi_k2_serving.engine.models"
    command = [python(), "-m", "kimi_k2_serving.engine.host", str(server)]
    return SupervisedEngine(
        lambda: host_process.spawn(command, environment, runtime, nodes=int(config.server_args.get("nnodes", 1))),
        server_args(config, checkpoint, cache),
        start_timeout=config.preset.start_timeout_seconds,
        stall_seconds=config.preset.stall_seconds,
        silent_seconds=config.preset.silent_seconds,
        steps_on_cpu=config.server_args.get("device") == "cpu",
    )


def server_args(config: EngineConfig, checkpoint: Checkpoint, cache: Path) -> dict[str, Any]:
    for name in RESERVED:
        if name in config.server_args:
            raise InvalidValue("set by the backend itself", field=f"engine.{name}")
    return {
        "log_level": "warning",
        **config.server_args,
        "model_path": str(checkpoint.path),
        "tokenizer_path": str(tokenizer_directory(checkpoint, cache)),
        "trust_remote_code": False,
        "incremental_streaming_output": True,
    }


def python() -> str:
    """The interpreter of this environment. Inside Triton's stub `sys.executable` is whatever PATH says."""
    found = shutil.which("python3", path=str(Path(sys.prefix) / "bin"))
    return found or sys.executable
