"""The presets for GPUs as the planner sees them: their hardware and their placement, read from SGLang's arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.engine.config import DIST_INIT_ADDR, load_preset, preset_names
from kimi_k2_serving.plan.hardware import Accelerator, Hardware, hardware_of
from kimi_k2_serving.plan.memory import Placement
from kimi_k2_serving.plan.shape import BF16, FP8

# What a preset for several nodes takes from the environment; the planner only shows it.
ADDRESS = {DIST_INIT_ADDR: "FIRST_NODE:20000"}
EXPERIMENTAL = "experimental"
# SGLang 0.5.23: the attention backends that allocate the cache in pages of 64 tokens, and its largest decode graph.
PAGED = ("trtllm_mla", "flashmla")
PAGE = 64
GRAPH_BATCH = 512


@dataclass(frozen=True, slots=True)
class GpuPreset:
    name: str
    description: str
    evidence: str
    hardware: Hardware
    placement: Placement
    server_args: Mapping[str, Any]

    @property
    def is_experimental(self) -> bool:
        return self.evidence.startswith(EXPERIMENTAL)


def gpu_presets() -> tuple[GpuPreset, ...]:
    """All presets that are not for a CPU, in the order of their names."""
    found = (load_preset(name, ADDRESS) for name in preset_names())
    return tuple(
        GpuPreset(
            each.name,
            each.description,
            each.evidence,
            machine := preset_hardware(each.hardware),
            placement_of(each.server_args, machine.accelerator),
            each.server_args,
        )
        for each in found
        if each.hardware["accelerator"] != "cpu"
    )


def preset_hardware(given: Mapping[str, Any]) -> Hardware:
    """`hardware` of a preset, whose `gpus` are those of one node."""
    return hardware_of(given["accelerator"], given["gpus"] * given["nodes"], given["nodes"])


def placement_of(server_args: Mapping[str, Any], accelerator: Accelerator) -> Placement:
    """What SGLang makes of these arguments on this GPU. A test compares it with SGLang's own resolution."""
    groups = server_args.get("attn_dp_size", 1)
    running = server_args["max_running_requests"]
    backend = server_args.get("attention_backend", "trtllm_mla" if accelerator.is_blackwell else "fa3")
    return Placement(
        tensor=server_args["tp_size"],
        cache_bytes=FP8 if server_args.get("kv_cache_dtype", "auto").startswith("fp8") else BF16,
        fraction=server_args["mem_fraction_static"],
        chunk=server_args["chunked_prefill_size"] // groups,
        running=running,
        context=server_args["context_length"],
        attention_data=groups,
        experts=server_args.get("ep_size", 1),
        decode_context=server_args.get("dcp_size", 1),
        page=server_args.get("page_size", PAGE if backend in PAGED else 1),
        graph_batch=server_args.get("cuda_graph_max_bs_decode", min(GRAPH_BATCH, running)),
        separate_head=server_args.get("enable_dp_lm_head", False),
    )


def sglang_flags(server_args: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments as words for `python -m sglang.launch_server`."""
    words = []
    for name, value in server_args.items():
        flag = f"--{name.replace('_', '-')}"
        match value:
            case True:
                words += [flag]
            case False:
                pass
            case dict():
                words += [flag, json.dumps(value)]
            case _:
                words += [flag, str(value)]
    return tuple(words)
