"""Presets are what SGLang really makes of them: resolved by its own pipeline as on their GPUs, and written down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kimi_k2_serving.engine.config import DETERMINISTIC_BACKENDS
from kimi_k2_serving.plan.memory import sglang_fraction
from kimi_k2_serving.plan.presets import GpuPreset, gpu_presets
from kimi_k2_serving.plan.shape import BF16
from tests.plan.resolved import (
    ADAPTED,
    ADAPTED_PRESETS,
    ADAPTERS,
    DETERMINISTIC,
    SNAPSHOT,
    resolve_all,
    snapshot_of,
    summary,
)

PRESETS = gpu_presets()
EACH_PRESET = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return resolve_all()


def test_the_snapshot_is_what_sglang_resolves(found: dict[str, Any]) -> None:
    """After a change that is meant: python -m tests.plan.resolved."""
    assert snapshot_of(found) == json.loads(SNAPSHOT.read_text())


def test_every_preset_and_addition_resolves(found: dict[str, Any]) -> None:
    assert {name: each for name, each in found.items() if isinstance(each, str)} == {}
    assert {preset.name for preset in PRESETS} <= found.keys()


@EACH_PRESET
def test_the_planner_places_the_model_as_sglang_does(found: dict[str, Any], preset: GpuPreset) -> None:
    resolved, placement = found[preset.name]["resolved"], preset.placement
    assert resolved["page_size"] == placement.page
    assert resolved["chunked_prefill_size"] == placement.chunk
    assert resolved["mem_fraction_static"] == placement.fraction
    assert resolved["cuda_graph_config"]["decode"]["max_bs"] == placement.graph_batch
    assert resolved["max_running_requests"] == placement.running
    assert resolved["enable_dp_lm_head"] == placement.separate_head
    assert (resolved["attn_dp_size"], resolved["ep_size"]) == (placement.attention_data, placement.experts)
    assert resolved["dcp_size"] == placement.decode_context
    # fa3 must not get an fp8 cache: it would convert all of it in every layer of every step.
    assert (resolved["attention_backend"] == "fa3") == (placement.cache_bytes == BF16)


@EACH_PRESET
def test_every_preset_computes_deterministically_if_asked(found: dict[str, Any], preset: GpuPreset) -> None:
    resolved = found[f"{preset.name} + {DETERMINISTIC}"]["resolved"]
    assert resolved["enable_deterministic_inference"] is True
    assert resolved["attention_backend"] in DETERMINISTIC_BACKENDS
    assert resolved["sampling_backend"] == "pytorch", "the only one that heeds seeds"
    assert not resolved["disable_radix_cache"], "the prefix cache stays"
    asked = preset.placement
    assert resolved["mem_fraction_static"] == asked.fraction, "the plan of the memory holds"
    assert resolved["chunked_prefill_size"] == asked.chunk


@pytest.mark.parametrize("name", ADAPTED_PRESETS)
def test_a_preset_takes_adapters_and_is_else_as_it_was(found: dict[str, Any], name: str) -> None:
    preset = next(each for each in PRESETS if each.name == name)
    resolved = found[f"{preset.name} + {ADAPTED}"]["resolved"]
    assert resolved["enable_lora"] is True
    pinned = preset.placement.attention_data > 1
    made = [(each["lora_name"], each["lora_path"], each["pinned"]) for each in resolved["lora_paths"]]
    assert made == [(*adapter, pinned) for adapter in ADAPTERS.items()]
    assert resolved["lora_backend"] == ("triton" if pinned else "csgmv")
    assert summary(resolved) == summary(found[preset.name]["resolved"])


@EACH_PRESET
def test_a_token_takes_the_bytes_that_sglang_counts(found: dict[str, Any], preset: GpuPreset) -> None:
    assert found[preset.name]["token_bytes"] == preset.placement.token_bytes()


@EACH_PRESET
def test_the_flags_that_the_planner_prints_are_the_preset(found: dict[str, Any], preset: GpuPreset) -> None:
    assert found[preset.name]["parsed"] == preset.server_args


@pytest.mark.parametrize("name", ["b200-8", "h200-8", "h200-16", "h100-16"])
def test_the_planner_knows_the_fraction_that_sglang_would_choose(found: dict[str, Any], name: str) -> None:
    preset = next(each for each in PRESETS if each.name == name)
    own = found[f"{name} + own fraction"]["resolved"]["mem_fraction_static"]
    assert own == sglang_fraction(preset.placement, preset.hardware.accelerator)
    # No preset leaves less than SGLang would for activations and graphs.
    assert preset.placement.fraction <= own
