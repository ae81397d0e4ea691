"""The network that is trained computes what SGLang and transformers compute from the published file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kimi_k2_serving.demo.architecture import Architecture
from kimi_k2_serving.demo.training.network import Experts, Network, Router, published, restore
from kimi_k2_serving.engine.cpu_plugin import mend_torchvision

TINY = Architecture(hidden=32, layers=2, heads=2, query_rank=16, key_value_rank=16, nope_head=8, rope_head=8,
                    value_head=8, dense_intermediate=32, expert_intermediate=16, vocabulary=64)  # fmt: skip


def test_its_logits_equal_those_of_transformers_for_the_same_checkpoint(demo: Path) -> None:
    mend_torchvision()
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    shape = json.loads((demo / "config.json").read_text()) | {"model_type": "deepseek_v3"}
    theirs = DeepseekV3ForCausalLM.from_pretrained(demo, config=DeepseekV3Config(**shape), dtype=torch.float32)
    ours = Network(Architecture()).eval()
    restore(ours, load_file(demo / "model.safetensors"))
    ids = torch.randint(0, Architecture().vocabulary, (2, 200), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        difference = theirs(ids).logits - ours.lm_head(ours(ids))
    assert float(difference.abs().max()) < 1e-3


def test_experts_compute_the_same_on_a_cpu_and_as_on_a_gpu_forwards_and_backwards() -> None:
    torch.manual_seed(4)
    experts = Experts(TINY)
    flat = torch.randn(50, TINY.hidden)

    def computed(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        experts.zero_grad()
        out = way(flat, experts.gate(flat))
        out.square().sum().backward()
        return out.detach(), torch.cat([each.grad.flatten() for each in experts.parameters() if each.grad is not None])

    torch.testing.assert_close(computed(experts.chosen_alone), computed(experts.every), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_survives_restoring_and_publishing_unchanged(demo: Path) -> None:
    tensors = load_file(demo / "model.safetensors")
    network = Network(Architecture())
    restore(network, tensors)
    again = published(network)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) and again[name].dtype == tensors[name].dtype for name in again)


def test_a_missing_tensor_is_named(demo: Path) -> None:
    tensors = load_file(demo / "model.safetensors")
    del tensors["model.layers.2.mlp.experts.5.up_proj.weight"]
    with pytest.raises(KeyError, match=r"layers\.2\.mlp\.experts\.5\.up_proj"):
        restore(Network(Architecture()), tensors)


def test_balancing_sends_tokens_to_the_expert_that_got_none() -> None:
    torch.manual_seed(1)
    router = Router(TINY)
    with torch.no_grad():
        router.weight[3] = -10.0
    x = torch.rand(400, TINY.hidden)
    router(x)
    assert router.load[3] == 0
    for _ in range(60):
        router.balance(0.02)
        router(x)
    assert router.load[3] > 0
