"""The twin's shape: what the published config.json counts is as it is there, and every width is small. And K2's own.

`PUBLISHED` are facts of the published file. Widths are those of the numbers in it that are not counts.
"""

from __future__ import annotations

from typing import Any

from kimi_k2_serving.demo import architecture
from kimi_k2_serving.demo.architecture import Architecture
from kimi_k2_serving.plan.shape import ModelShape

RANKS, VOCABULARY = 163_584, 163_840
BOS, EOS, STOP = RANKS, RANKS + 1, RANKS + 2

# config.json's counts, factors and names.
PUBLISHED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "kimi_k2",
    "num_hidden_layers": 61,
    "first_k_dense_replace": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_routed_experts": 384,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.827,
    "moe_layer_freq": 1,
    "num_nextn_predict_layers": 0,
    "hidden_act": "silu",
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 50000.0,
    "max_position_embeddings": 262_144,
    "rope_scaling": {
        "type": "yarn",
        "factor": 64.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "bfloat16",
}
QUANTIZATION: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
WIDTHS = (
    "hidden_size",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "intermediate_size",
    "moe_intermediate_size",
)

TWIN = Architecture(
    hidden=128,
    layers=61,
    dense_layers=1,
    heads=64,
    query_rank=64,
    key_value_rank=32,
    nope_head=16,
    rope_head=8,
    value_head=16,
    dense_intermediate=256,
    expert_intermediate=32,
    experts=384,
    experts_per_token=8,
    shared_experts=1,
    vocabulary=VOCABULARY,
    context=262_144,
    original_context=4_096,
)
# The published sizes.
WHOLE = Architecture(
    hidden=7168,
    layers=61,
    dense_layers=1,
    heads=64,
    query_rank=1536,
    key_value_rank=512,
    nope_head=128,
    rope_head=64,
    value_head=128,
    dense_intermediate=18432,
    expert_intermediate=2048,
    experts=384,
    experts_per_token=8,
    shared_experts=1,
    vocabulary=VOCABULARY,
    context=262_144,
    original_context=4_096,
)


def config(shape: Architecture = TWIN) -> dict[str, Any]:
    """The twin's config.json."""
    return {**architecture.config(shape), "bos_token_id": BOS, "eos_token_id": EOS}


def planned(shape: Architecture = TWIN, block: int = 0) -> ModelShape:
    """The same shape for the planner, in bf16 or in block fp8."""
    return ModelShape(
        hidden=shape.hidden,
        layers=shape.layers,
        dense_layers=shape.dense_layers,
        heads=shape.heads,
        query_rank=shape.query_rank,
        latent=shape.key_value_rank,
        nope=shape.nope_head,
        rope=shape.rope_head,
        value=shape.value_head,
        dense_intermediate=shape.dense_intermediate,
        expert_intermediate=shape.expert_intermediate,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        shared_experts=shape.shared_experts,
        vocabulary=shape.vocabulary,
        context=shape.context,
        block=block,
    )
