"""The presets, and what may be added to them, as SGLang 0.5.23 resolves them on their GPUs.

`python -m tests.plan.resolved` rewrites the snapshot, resolved.json, which test_resolved.py compares.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from kimi_k2_serving.demo.architecture import config
from kimi_k2_serving.engine.adapters import adapter_args
from kimi_k2_serving.engine.config import deterministic_args
from kimi_k2_serving.plan.presets import GpuPreset, gpu_presets, sglang_flags
from tests.structure.tree import ROOT
from tests.twin.shape import QUANTIZATION, WHOLE

SNAPSHOT = Path(__file__).with_name("resolved.json")
# The settings that decide on speed, memory and accuracy, and that SGLang changes or fills in.
KEYS = (
    "attention_backend",
    "attn_dp_size",
    "chunked_prefill_size",
    "context_length",
    "dcp_comm_backend",
    "dcp_size",
    "disable_overlap_schedule",
    "disable_radix_cache",
    "disable_shared_experts_fusion",
    "disaggregation_mode",
    "dist_timeout",
    "enable_dp_lm_head",
    "enable_hierarchical_cache",
    "ep_size",
    "flashinfer_allreduce_fusion_backend",
    "fp8_gemm_runner_backend",
    "hicache_io_backend",
    "hicache_mem_layout",
    "hicache_ratio",
    "hicache_size",
    "kv_cache_dtype",
    "max_running_requests",
    "mem_fraction_static",
    "moe_a2a_backend",
    "moe_runner_backend",
    "nnodes",
    "page_size",
    "sampling_backend",
    "speculative_algorithm",
    "tp_size",
    "watchdog_timeout",
)
HICACHE = {"enable_hierarchical_cache": True, "hicache_size": 48, "page_size": 64}
# Pages of 64 tokens allow one chain of drafted tokens, not a tree.
NGRAM = {
    "speculative_algorithm": "NGRAM",
    "speculative_num_draft_tokens": 8,
    "speculative_ngram_max_bfs_breadth": 1,
}
# What the top level of engine.yaml adds to every preset, and to three of them. No directory is read while resolving.
DETERMINISTIC, ADAPTED = "deterministic", "adapters"
ADAPTERS = {"summaries": "/adapters/summaries", "sql": "/adapters/sql"}
ADAPTED_PRESETS = ("b200-8", "b200-8-throughput", "h200-8")
# What docs/deployment.md adds to presets under `engine:` of engine.yaml.
ADDITIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("b200-8", "hicache", HICACHE),
    ("h200-16", "hicache", HICACHE),
    ("b200-8", "ngram", NGRAM),
    ("h100-16", "ngram", NGRAM),
    ("h200-8", "prefetch", {"weight_loader_prefetch_checkpoints": True}),
    ("b200-8", "prefill", {"disaggregation_mode": "prefill"}),
    ("b200-8-throughput", "decode", {"disaggregation_mode": "decode"}),
    *((name, "own fraction", {"mem_fraction_static": None}) for name in ("b200-8", "h200-8", "h200-16", "h100-16")),
)
# K2's published configuration: the demo's, with the published sizes and in block fp8.
PUBLISHED = {**config(WHOLE), "quantization_config": QUANTIZATION}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    memory_mib: int
    devices: int
    model: str
    server_args: Mapping[str, Any]
    flags: tuple[str, ...]


def case_of(preset: GpuPreset, model: str, addition: str = "", added: Mapping[str, Any] | None = None) -> Case:
    given = {name: value for name, value in {**preset.server_args, **(added or {})}.items() if value is not None}
    hardware = preset.hardware
    return Case(
        f"{preset.name} + {addition}" if addition else preset.name,
        hardware.accelerator.memory_mib,
        hardware.gpus // hardware.nodes,
        model,
        given,
        () if addition else sglang_flags(given),
    )


def resolve_all() -> dict[str, Any]:
    """By name of the case, `resolved` and `parsed` of tests.plan.resolver, or an error as text."""
    presets = {each.name: each for each in gpu_presets()}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(PUBLISHED))
        cases = [(each, case_of(each, folder)) for each in presets.values()]
        cases += [(presets[name], case_of(presets[name], folder, label, added)) for name, label, added in ADDITIONS]
        cases += [
            (each, case_of(each, folder, DETERMINISTIC, deterministic_args(each.server_args, {})))
            for each in presets.values()
        ]
        for name in ADAPTED_PRESETS:
            added = adapter_args(ADAPTERS, presets[name].server_args)
            cases.append((presets[name], case_of(presets[name], folder, ADAPTED, added)))
        cases.sort(key=lambda pair: pair[0].hardware.accelerator.capability)
        found: dict[str, Any] = {}
        for capability, group in groupby(cases, key=lambda pair: pair[0].hardware.accelerator.capability):
            command = [sys.executable, "-m", "tests.plan.resolver", *map(str, capability)]
            given = json.dumps([asdict(case) for _, case in group])
            answer = subprocess.run(command, input=given, cwd=ROOT, capture_output=True, text=True, check=True)
            found |= json.loads(answer.stdout.splitlines()[-1])
    return found


def summary(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolution that the snapshot holds."""
    graphs = resolved["cuda_graph_config"]
    return {
        **{key: resolved[key] for key in KEYS},
        "decode_graphs": {key: graphs["decode"][key] for key in ("backend", "max_bs")},
        "prefill_graphs": graphs["prefill"]["backend"],
    }


def snapshot_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the cases with adapters, whose settings are the preset's."""
    return {
        name: summary(each["resolved"]) if isinstance(each, dict) else each
        for name, each in sorted(found.items())
        if not name.endswith(ADAPTED)
    }


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot_of(resolve_all()), indent=1) + "\n")
