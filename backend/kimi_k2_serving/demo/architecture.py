"""The demo model's shape: DeepseekV3ForCausalLM as K2 uses it, with sizes small enough for two CPU cores.

It has every field of K2's `config.json` that SGLang reads, with K2's value unless the field is a size. There is no
`quantization_config`, because block-fp8 needs a GPU or AMX.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.demo.vocabulary import BOS, EOS, RANKS, SIZE, STOP

# K2's own values of what is not a size.
ROUTED_SCALE = 2.827
NORM_EPSILON = 1e-06
ROPE_BASE = 50000.0


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes in elements; `context` in tokens.

    Few wide heads: the cost of absorbed MLA per pair of tokens grows with the number of heads, not with their width.
    """

    hidden: int = 256
    layers: int = 4
    dense_layers: int = 1
    heads: int = 4
    query_rank: int = 96
    key_value_rank: int = 64
    nope_head: int = 64
    rope_head: int = 16
    value_head: int = 64
    dense_intermediate: int = 512
    expert_intermediate: int = 128
    experts: int = 8
    experts_per_token: int = 2
    shared_experts: int = 1
    vocabulary: int = SIZE
    context: int = 32_768
    original_context: int = 4_096


# The trained demo: a layer more, and a wider latent, because copying names and numbers from the conversation needs the
# identity of a token and that of its neighbour in one latent vector.
TRAINED = Architecture(layers=5, key_value_rank=96)


def config(shape: Architecture) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "kimi_k2",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "first_k_dense_replace": shape.dense_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "q_lora_rank": shape.query_rank,
        "kv_lora_rank": shape.key_value_rank,
        "qk_nope_head_dim": shape.nope_head,
        "qk_rope_head_dim": shape.rope_head,
        "v_head_dim": shape.value_head,
        "intermediate_size": shape.dense_intermediate,
        "moe_intermediate_size": shape.expert_intermediate,
        "n_routed_experts": shape.experts,
        "num_experts_per_tok": shape.experts_per_token,
        "n_shared_experts": shape.shared_experts,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": ROUTED_SCALE,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
        "attention_bias": False,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": False,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_BASE,
        "max_position_embeddings": shape.context,
        "rope_scaling": {
            "type": "yarn",
            "factor": shape.context / shape.original_context,
            "original_max_position_embeddings": shape.original_context,
            "beta_fast": 1.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "bos_token_id": RANKS + BOS,
        "eos_token_id": RANKS + EOS,
        "torch_dtype": "bfloat16",
    }


def generation_config() -> dict[str, object]:
    """The content of generation_config.json. It makes answers end with `<|im_end|>`, not with config.json's [EOS]."""
    return {"eos_token_id": RANKS + STOP, "temperature": 0.6}
