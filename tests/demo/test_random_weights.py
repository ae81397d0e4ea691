from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors import safe_open

from kimi_k2_serving.demo import random_weights
from kimi_k2_serving.demo.architecture import Architecture
from kimi_k2_serving.demo.random_weights import LOGIT_STD, WeightTensor

if TYPE_CHECKING:
    import torch

SHAPE = Architecture()


def load(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)


@pytest.fixture(scope="module")
def loaded(demo: Path) -> dict[str, torch.Tensor]:
    return load(demo / "model.safetensors")


def test_every_declared_tensor_is_in_the_file_with_its_shape_and_type(loaded: dict[str, torch.Tensor]) -> None:
    import torch

    types = {"BF16": torch.bfloat16, "F32": torch.float32}
    declared = {tensor.name: (tensor.shape, types[tensor.dtype]) for tensor in random_weights.tensors(SHAPE)}
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in loaded.items()} == declared


def test_the_first_layer_is_dense_and_the_others_have_all_experts_a_shared_one_and_a_router(
    loaded: dict[str, torch.Tensor],
) -> None:
    assert "model.layers.0.mlp.gate_proj.weight" in loaded
    assert not any(name.startswith("model.layers.0.mlp.experts") for name in loaded)
    for layer in range(1, SHAPE.layers):
        prefix = f"model.layers.{layer}.mlp"
        assert loaded[f"{prefix}.gate.e_score_correction_bias"].shape == (SHAPE.experts,)
        experts = {name.split(".")[5] for name in loaded if name.startswith(f"{prefix}.experts.")}
        assert experts == {str(expert) for expert in range(SHAPE.experts)}
        assert f"{prefix}.shared_experts.down_proj.weight" in loaded


def test_the_scales_give_logits_of_the_stated_spread(loaded: dict[str, torch.Tensor]) -> None:
    import torch

    head = loaded["lm_head.weight"].float()
    hidden = torch.ones(SHAPE.hidden)  # a mean square of 1, like the output of the last norm
    assert float((head @ hidden).std()) == pytest.approx(LOGIT_STD, rel=0.05)
    assert float(loaded["model.embed_tokens.weight"].float().std()) == pytest.approx(1.0, rel=0.01)
    assert float(loaded["model.norm.weight"].float().mean()) == pytest.approx(1.0, abs=0.02)


def test_values_are_rounded_to_bfloat16_as_torch_rounds_them(tmp_path: Path) -> None:
    import torch

    same = [WeightTensor("x", (4096,), 1.0, mean=0.1, dtype=dtype) for dtype in ("F32", "BF16")]
    for number, tensor in enumerate(same):
        random_weights.write_weights(tmp_path / str(number), [tensor], seed=7)
    exact, rounded = load(tmp_path / "0")["x"], load(tmp_path / "1")["x"]
    assert torch.equal(exact.to(torch.bfloat16), rounded)


@pytest.mark.parametrize("std", [0.01, 1.0])
def test_a_tensor_has_the_mean_the_deviation_and_the_bounds_it_declares(tmp_path: Path, std: float) -> None:
    random_weights.write_weights(tmp_path / "one", [WeightTensor("x", (200, 100), std, mean=0.5, dtype="F32")])
    values = load(tmp_path / "one")["x"].numpy()
    assert values.mean() == pytest.approx(0.5, abs=0.03 * std)
    assert values.std() == pytest.approx(std, rel=0.02)
    assert np.abs(values - 0.5).max() <= std * math.sqrt(3.0) * 1.00001


def test_the_weights_depend_only_on_the_seed(tmp_path: Path) -> None:
    wanted = [WeightTensor("x", (64,), 1.0)]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        random_weights.write_weights(tmp_path / name, wanted, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
