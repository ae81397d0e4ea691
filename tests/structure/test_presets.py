"""Presets load, and the arithmetic in their comments is the planner's."""

from __future__ import annotations

import pytest

from kimi_k2_serving.engine.config import load_preset, preset_names
from kimi_k2_serving.launch.preflight import GPU_PRESETS
from kimi_k2_serving.plan.memory import GIB, pool_of
from kimi_k2_serving.plan.planner import splits_into_blocks
from kimi_k2_serving.plan.presets import gpu_presets
from kimi_k2_serving.plan.report import arithmetic
from kimi_k2_serving.plan.shape import K2
from tests.structure.tree import ROOT

ENVIRONMENT = {"KIMI_K2_DIST_INIT_ADDR": "10.0.0.1:20000"}
PRESETS = {preset.name: preset for preset in gpu_presets()}
GPU = tuple(PRESETS)
MEASURED = "measured on two CPU cores"


def comments(name: str) -> list[str]:
    text = (ROOT / "backend" / "kimi_k2_serving" / "presets" / f"{name}.yaml").read_text("utf-8")
    return [line.removeprefix("#") for line in text.splitlines() if line.startswith("#")]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_says_what_is_behind_its_numbers(name: str) -> None:
    preset = load_preset(name, ENVIRONMENT)
    assert preset.description
    assert preset.evidence == MEASURED or preset.evidence.endswith("not measured on GPU")
    assert (preset.hardware["accelerator"] == "cpu") == (preset.evidence == MEASURED)


@pytest.mark.parametrize("name", GPU)
def test_the_comment_is_the_planner_s_arithmetic(name: str) -> None:
    preset = PRESETS[name]
    said = [line.removeprefix("   ") for line in comments(name) if line.startswith("   ")]
    assert said == arithmetic(preset.hardware, preset.placement)


@pytest.mark.parametrize("name", GPU)
def test_a_preset_fits_one_conversation_of_its_context(name: str) -> None:
    preset = PRESETS[name]
    pool = pool_of(preset.placement, preset.hardware.accelerator)
    assert pool.longest >= preset.placement.context
    assert preset.placement.context <= K2.context
    # What activations and graphs need at least, by SGLang's own rule.
    assert pool.rest > 9 * GIB


@pytest.mark.parametrize("name", GPU)
def test_a_rank_s_share_of_an_expert_is_whole_blocks(name: str) -> None:
    assert splits_into_blocks(PRESETS[name].placement.tensor)


@pytest.mark.parametrize("name", GPU)
def test_ranks_fit_the_machine(name: str) -> None:
    preset, args = PRESETS[name], PRESETS[name].server_args
    assert args["tp_size"] == preset.hardware.gpus
    assert args.get("nnodes", 1) == preset.hardware.nodes
    assert (args.get("dist_timeout", 0) >= 3600) == (preset.hardware.nodes > 1)
    assert preset.placement.attention_data * preset.placement.graph_batch >= min(preset.placement.running, 512)


@pytest.mark.parametrize("name", GPU)
def test_admission_follows_from_the_engine(name: str) -> None:
    preset = load_preset(name, ENVIRONMENT)
    pool = pool_of(PRESETS[name].placement, PRESETS[name].hardware.accelerator)
    assert preset.admission["requests"] == preset.server_args["max_running_requests"] * 3 // 2
    assert preset.admission["prompt_tokens"] == 2 * pool.tokens // 1000 * 1000


@pytest.mark.parametrize("name", GPU)
def test_each_guard_is_slower_than_the_one_inside_it(name: str) -> None:
    """SGLang's watchdog knows what hung; the supervisor's comes after it, and one silent request's after that."""
    preset = load_preset(name, ENVIRONMENT)
    assert preset.server_args["watchdog_timeout"] < preset.stall_seconds < preset.silent_seconds
    assert preset.silent_seconds > preset.server_args["context_length"] / 1000


@pytest.mark.parametrize("name", GPU)
def test_the_page_repeats_the_preset(name: str) -> None:
    preset = PRESETS[name]
    pool = pool_of(preset.placement, preset.hardware.accelerator)
    cells = row("docs/deployment.md", name)
    assert cells[3] == f"{pool.weights / GIB:.1f} GiB"
    assert cells[4] == f"{pool.room / GIB:.1f} GiB"
    assert cells[5] == f"{pool.tokens:,}"
    assert cells[6] == f"{preset.placement.context:,}"


def row(page: str, name: str) -> list[str]:
    """The cells of a preset's row in the first table that has one; the first cell is number 1."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    return [cell.strip() for cell in next(line for line in lines if line.startswith(f"| `{name}`")).split("|")]


def test_the_launcher_suggests_presets_as_they_are() -> None:
    assert {name for name, *_ in GPU_PRESETS} == set(GPU)
    for name, accelerator, gpus, nodes in GPU_PRESETS:
        hardware = PRESETS[name].hardware
        assert (hardware.accelerator.name, hardware.gpus, hardware.nodes) == (accelerator, gpus * nodes, nodes)
