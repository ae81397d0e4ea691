"""LoRA adapters: `adapters` of engine.yaml (directories by the names that requests use), and SGLang's arguments.

That SGLang 0.5.23 resolves its arguments does not mean that it can load the adapters: it checks more while it loads
(lora/lora_manager.py). The arguments made here meet those checks, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.errors import InvalidType, InvalidValue

FIELD = "engine.yaml.adapters"
# A directory with this file is an adapter.
ADAPTER_FILE = "adapter_config.json"
# SGLang's number of adapters in one batch, the base model included.
BATCH = 8


def read_adapters(given: Any, server_args: Mapping[str, Any]) -> dict[str, str]:
    """Check `adapters` of engine.yaml. Raises InvalidType, InvalidValue or LimitExceeded."""
    if not isinstance(given, dict):
        raise InvalidType("must be a mapping of names to directories", field=FIELD)
    if "lora_paths" in server_args:
        raise InvalidValue(f"declare them by name as {FIELD}, and remove it here", field="engine.lora_paths")
    if given and server_args.get("device") == "cpu":
        # SGLang puts adapters into pinned memory, which torch supports only with a GPU (lora/layers.py).
        raise InvalidValue("needs a GPU: SGLang loads no adapters on a CPU; remove it", field=FIELD)
    for name, directory in given.items():
        if not isinstance(name, str) or not isinstance(directory, str) or not name or not directory:
            raise InvalidType("names and directories must be text, not empty", field=f"{FIELD}.{name}")
        limits.NAME_BYTES.check(len(name.encode()), field=FIELD)
    return given


def check_directories(adapters: Mapping[str, str]) -> None:
    """Check that each directory has an adapter. Raises InvalidValue."""
    for name, directory in adapters.items():
        if not (Path(directory) / ADAPTER_FILE).is_file():
            problem = f"{directory} has no {ADAPTER_FILE}; name the directory of a LoRA adapter in PEFT's format"
            raise InvalidValue(problem, field=f"{FIELD}.{name}")


def adapter_args(adapters: Mapping[str, str], server_args: Mapping[str, Any]) -> dict[str, Any]:
    """SGLang's arguments for these adapters. With data-parallel attention, SGLang's default kernels do not support
    adapters, and all adapters must be pinned: each has a place in every batch.
    """
    if not adapters:
        return {}
    pinned = server_args.get("attn_dp_size", 1) > 1
    paths = [{"lora_name": name, "lora_path": path, "pinned": pinned} for name, path in adapters.items()]
    places = {"lora_backend": "triton", "max_loras_per_batch": max(BATCH, len(adapters) + 1)} if pinned else {}
    return {"lora_paths": paths, **places}
