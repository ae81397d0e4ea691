"""A checkpoint with K2's published names in block fp8 is what SGLang's loader takes and what the planner counts.

Block fp8 is not served on a CPU. So this holds what is decided before the first kernel: names, shapes, types and bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from kimi_k2_serving.plan.shape import K2
from tests.structure.tree import ROOT
from tests.support.vocabulary import reference_directory
from tests.twin.loader import EXPERT, FUSED, LAYERS, SMALL
from tests.twin.published import stored
from tests.twin.shape import QUANTIZATION, WHOLE, WIDTHS, config, planned

PUBLISHED = {each.name: each for each in stored(WHOLE)}
ONE_LAYER = "model.layers.60"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    answer = subprocess.run(
        [sys.executable, "-m", "tests.twin.loader"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    loaded: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return loaded


def test_the_sizes_and_the_quantization_are_those_of_the_published_file() -> None:
    directory = reference_directory()
    if directory is None:
        pytest.skip("the published config.json is not at hand")
    published = json.loads((directory / "config.json").read_text())
    assert published["quantization_config"] == QUANTIZATION
    assert {name: published[name] for name in WIDTHS} == {name: config(WHOLE)[name] for name in WIDTHS}


@pytest.mark.parametrize(
    ("name", "weight", "scale"),
    [
        ("self_attn.q_a_proj", (1536, 7168), (12, 56)),
        ("self_attn.kv_a_proj_with_mqa", (576, 7168), (5, 56)),
        ("self_attn.kv_b_proj", (16384, 512), (128, 4)),
        ("self_attn.o_proj", (7168, 8192), (56, 64)),
        ("mlp.experts.383.gate_proj", (2048, 7168), (16, 56)),
        ("mlp.shared_experts.down_proj", (7168, 2048), (56, 16)),
    ],
)
def test_every_block_of_a_projection_has_a_scale(name: str, weight: tuple[int, int], scale: tuple[int, int]) -> None:
    found = [PUBLISHED[f"{ONE_LAYER}.{name}.weight{end}"] for end in ("", "_scale_inv")]
    assert [(each.shape, each.dtype) for each in found] == [(weight, "F8_E4M3"), (scale, "F32")]


def test_the_planner_counts_the_bytes_of_the_published_tensors() -> None:
    assert planned(WHOLE, block=128) == K2
    assert sum(each.size for each in PUBLISHED.values()) == K2.checkpoint_bytes()


@pytest.mark.slow
def test_sglang_takes_every_published_tensor_unchanged_and_misses_none(found: dict[str, Any]) -> None:
    assert found["as published"] == {"error": "", "left": [], "differ": [], "names": len(list(stored(SMALL)))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "error", "left", "differ"),
    [
        ("a scale too short", "AssertionError", 0, f"{FUSED}_scale_inv"),
        ("a scale renamed", "", 1, f"{EXPERT}_scale_inv"),
        ("a scale missing", "", 0, f"{EXPERT}_scale_inv"),
    ],
)
def test_a_checkpoint_that_differs_is_noticed(
    found: dict[str, Any], case: str, error: str, left: int, differ: str
) -> None:
    assert (found[case]["error"], len(found[case]["left"])) == (error, left)
    assert differ in found[case]["differ"]


@pytest.mark.slow
def test_at_the_published_widths_sglangs_model_has_these_tensors_and_the_planners_bytes(found: dict[str, Any]) -> None:
    two = replace(WHOLE, layers=LAYERS)
    expected = {"differ": [], "names": len(list(stored(two))), "bytes": planned(two, block=128).checkpoint_bytes()}
    assert found["published widths"] == expected
