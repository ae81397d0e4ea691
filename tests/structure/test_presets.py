"""Presets load, and the arithmetic in their comments is correct: it is recomputed from K2's published configuration."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from kimi_k2_serving.engine.config import load_preset, preset_names
from kimi_k2_serving.launch.preflight import GPU_PRESETS
from tests.structure.tree import ROOT

ENVIRONMENT = {"KIMI_K2_DIST_INIT_ADDR": "10.0.0.1:20000"}
GPU = ("b200-8", "h100-16", "h200-16")
ACTIVATIONS_GB = 4.0
FP8, BF16 = 1, 2


@dataclass(frozen=True, slots=True)
class Architecture:
    """The values of Kimi-K2-Instruct-0905's config.json that determine sizes."""

    hidden: int = 7168
    layers: int = 61
    dense_layers: int = 1
    heads: int = 64
    q_rank: int = 1536
    kv_rank: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128
    intermediate: int = 18432
    moe_intermediate: int = 2048
    experts: int = 384
    shared_experts: int = 1
    vocabulary: int = 163840
    context: int = 262144
    block: int = 128

    def matrices(self) -> int:
        """Parameters that are quantised to block fp8."""
        attention = (
            self.hidden * self.q_rank
            + self.q_rank * self.heads * (self.nope + self.rope)
            + self.hidden * (self.kv_rank + self.rope)
            + self.kv_rank * self.heads * (self.nope + self.value)
            + self.heads * self.value * self.hidden
        )
        expert = 3 * self.hidden * self.moe_intermediate
        sparse = (self.layers - self.dense_layers) * (self.experts + self.shared_experts) * expert
        return self.layers * attention + sparse + self.dense_layers * 3 * self.hidden * self.intermediate

    def weight_bytes(self) -> int:
        """Block fp8 with a 4-byte scale per block; embeddings, output head and router in bf16."""
        unquantised = 2 * self.vocabulary * self.hidden + (self.layers - self.dense_layers) * self.experts * self.hidden
        return self.matrices() * FP8 + self.matrices() // self.block**2 * 4 + unquantised * BF16

    def cache_bytes(self) -> int:
        """Per token in fp8: one latent and one rotary key per layer, the same on every tensor-parallel rank."""
        return (self.kv_rank + self.rope) * self.layers * FP8


K2 = Architecture()


def comment(name: str) -> str:
    text = (ROOT / "backend" / "kimi_k2_serving" / "presets" / f"{name}.yaml").read_text("utf-8")
    return " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"the comment no longer says {pattern!r}"
    return float(found[1].replace(",", ""))


def pool_gb(name: str) -> float:
    preset = load_preset(name, ENVIRONMENT)
    memory = preset.hardware["gpu_memory_gb"] * preset.server_args["mem_fraction_static"]
    return float(memory - K2.weight_bytes() / 1e9 / preset.server_args["tp_size"] - ACTIVATIONS_GB)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_says_what_is_behind_its_numbers(name: str) -> None:
    preset = load_preset(name, ENVIRONMENT)
    assert preset.description
    assert preset.evidence in ("measured on two CPU cores", "not measured on GPU")
    assert (preset.hardware["accelerator"] == "cpu") == (preset.evidence == "measured on two CPU cores")


def test_every_gpu_preset_is_checked_here() -> None:
    accelerated = {name for name in preset_names() if load_preset(name, ENVIRONMENT).hardware["accelerator"] != "cpu"}
    assert accelerated == set(GPU)


@pytest.mark.parametrize("name", GPU)
def test_weights_per_gpu_are_as_the_comment_says(name: str) -> None:
    text, ranks = comment(name), load_preset(name, ENVIRONMENT).server_args["tp_size"]
    assert number(r"weights +([\d,]+) GB", text) == pytest.approx(K2.weight_bytes() / 1e9, rel=0.001)
    assert number(r"/ (\d+) = [\d.]+ GB per GPU", text) == ranks
    assert number(r"= ([\d.]+) GB per GPU", text) == pytest.approx(K2.weight_bytes() / 1e9 / ranks, rel=0.001)


@pytest.mark.parametrize("name", GPU)
def test_the_pool_is_as_the_comment_says(name: str) -> None:
    preset, text = load_preset(name, ENVIRONMENT), comment(name)
    memory = preset.hardware["gpu_memory_gb"]
    fraction = preset.server_args["mem_fraction_static"]
    assert number(r"pool +([\d.]+) x", text) == fraction
    assert number(rf"x {memory} GB = ([\d.]+) GB", text) == pytest.approx(memory * fraction, abs=0.06)
    assert number(r"activations = ([\d.]+) GB", text) == pytest.approx(pool_gb(name), abs=0.06)


@pytest.mark.parametrize("name", GPU)
def test_the_cache_holds_the_tokens_that_the_comment_says(name: str) -> None:
    text = comment(name)
    assert number(r"([\d,]+) B per token", text) == K2.cache_bytes()
    tokens = number(r"-> ([\d,]+) tokens", text)
    assert tokens == pytest.approx(pool_gb(name) * 1e9 / K2.cache_bytes(), rel=0.01)
    assert tokens >= load_preset(name, ENVIRONMENT).server_args["context_length"]


@pytest.mark.parametrize("name", GPU)
def test_a_rank_s_share_of_an_expert_is_whole_blocks(name: str) -> None:
    share, rest = divmod(K2.moe_intermediate, load_preset(name, ENVIRONMENT).server_args["tp_size"])
    assert rest == 0
    assert share % K2.block == 0


@pytest.mark.parametrize("name", GPU)
def test_ranks_and_context_fit_machine_and_model(name: str) -> None:
    preset = load_preset(name, ENVIRONMENT)
    machine = preset.hardware
    assert preset.server_args["tp_size"] == machine["gpus"] * machine["nodes"]
    assert preset.server_args.get("nnodes", 1) == machine["nodes"]
    assert preset.server_args["context_length"] <= K2.context


@pytest.mark.parametrize("name", GPU)
def test_the_deployment_page_repeats_the_preset(name: str) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    cells = next(line for line in page.splitlines() if line.startswith(f"| `{name}`")).split("|")
    weights, pool, tokens, context = (float(re.sub(r"[^\d.]", "", cell)) for cell in cells[3:7])
    text = comment(name)
    assert weights == number(r"= ([\d.]+) GB per GPU", text)
    assert pool == number(r"activations = ([\d.]+) GB", text)
    assert tokens == number(r"-> ([\d,]+) tokens", text)
    assert context == load_preset(name, ENVIRONMENT).server_args["context_length"]


@pytest.mark.parametrize("name", [name for name in GPU if name.endswith("-16")])
def test_the_second_node_gets_the_preset_s_arguments(name: str) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    command = page.split(f"`{name}`")[-1].split("```")[1]
    given = arguments(command[command.index("--tp-size") :])
    assert given == {**load_preset(name, ENVIRONMENT).server_args, "node_rank": 1}


def arguments(command: str) -> dict[str, Any]:
    """`--some-name value` and `--some-flag` as SGLang's server arguments."""
    words = shlex.split(command.replace("\\\n", " "))
    given: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            given[name] = True if following.startswith("--") else _value(following)
    return given


def _value(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def test_the_launcher_suggests_presets_as_they_are() -> None:
    for name, gpus, least, nodes in GPU_PRESETS:
        machine = load_preset(name, ENVIRONMENT).hardware
        assert (gpus, nodes) == (machine["gpus"], machine["nodes"])
        # Vendors count in GB; drivers report a little less, in GiB.
        assert 0.9 * machine["gpu_memory_gb"] * 2**30 <= least <= machine["gpu_memory_gb"] * 2**30
