"""DeepSeek-V3's network in torch, for training: MLA with YaRN, and experts chosen by K2's sigmoid router.

The arithmetic equals SGLang's and transformers' (tests/demo/test_network.py compares the logits); the parameters have
the checkpoint's names, except that a layer's experts are stacked: `published` and `restore` convert. On a GPU a forward
pass computes every expert for every token and weights most of them with 0: with 8 small experts this is faster there
than to sort tokens. A CPU computes the chosen experts alone. Shapes in comments: B rows, T tokens, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from kimi_k2_serving.demo.architecture import NORM_EPSILON, ROPE_BASE, ROUTED_SCALE, Architecture

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class RMSNorm(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), NORM_EPSILON)


class Attention(nn.Module):  # type: ignore[misc]
    """Multi-head latent attention, with keys and values expanded as in K2's prefill."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        query_width = shape.nope_head + shape.rope_head
        self.q_a_proj = _linear(shape.hidden, shape.query_rank)
        self.q_a_layernorm = RMSNorm(shape.query_rank)
        self.q_b_proj = _linear(shape.query_rank, shape.heads * query_width)
        self.kv_a_proj_with_mqa = _linear(shape.hidden, shape.key_value_rank + shape.rope_head)
        self.kv_a_layernorm = RMSNorm(shape.key_value_rank)
        self.kv_b_proj = _linear(shape.key_value_rank, shape.heads * (shape.nope_head + shape.value_head))
        self.o_proj = _linear(shape.heads * shape.value_head, shape.hidden, 1 / math.sqrt(2 * shape.layers))
        factor = shape.context / shape.original_context
        # YaRN's correction of the softmax's temperature, with K2's mscale_all_dim of 1.
        self.scale = (0.1 * math.log(factor) + 1.0) ** 2 / math.sqrt(query_width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        shape = self.shape
        rows, tokens, _ = x.shape
        query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(rows, tokens, shape.heads, -1).transpose(1, 2)
        query_nope, query_rope = query.split([shape.nope_head, shape.rope_head], dim=-1)
        latent, key_rope = self.kv_a_proj_with_mqa(x).split([shape.key_value_rank, shape.rope_head], dim=-1)
        expanded = self.kv_b_proj(self.kv_a_layernorm(latent)).view(rows, tokens, shape.heads, -1).transpose(1, 2)
        key_nope, value = expanded.split([shape.nope_head, shape.value_head], dim=-1)
        key_rope = _rotate(key_rope.unsqueeze(1), rotation).expand(-1, shape.heads, -1, -1)
        query = torch.cat([query_nope, _rotate(query_rope, rotation)], dim=-1)
        key = torch.cat([key_nope, key_rope], dim=-1)
        # The fused kernels want one width for keys and values.
        padded = functional.pad(value, (0, key.shape[-1] - shape.value_head))
        mixed = functional.scaled_dot_product_attention(query, key, padded, is_causal=True, scale=self.scale)
        mixed = mixed[..., : shape.value_head].transpose(1, 2).reshape(rows, tokens, -1)
        out: Tensor = self.o_proj(mixed)
        return out


class FeedForward(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Architecture, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = _linear(shape.hidden, intermediate)
        self.up_proj = _linear(shape.hidden, intermediate)
        self.down_proj = _linear(intermediate, shape.hidden, 1 / math.sqrt(2 * shape.layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Router(nn.Module):  # type: ignore[misc]
    """K2's router: sigmoid scores; a bias balances the choice of experts, but not their weights."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.chosen = shape.experts_per_token
        self.weight = nn.Parameter(torch.randn(shape.experts, shape.hidden) / math.sqrt(shape.hidden))
        self.e_score_correction_bias: Tensor
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts))
        self.load: Tensor
        self.register_buffer("load", torch.zeros(shape.experts))

    def forward(self, x: Tensor) -> Tensor:
        """The weight of each expert for each token, float32, 0 for those that are not chosen."""
        with torch.autocast(x.device.type, enabled=False):
            scores = functional.linear(x.float(), self.weight.float()).sigmoid()
        choice = (scores.detach() + self.e_score_correction_bias).topk(self.chosen, dim=-1, sorted=False).indices
        mask = torch.zeros_like(scores).scatter_(-1, choice, 1.0)
        if self.training:
            self.load += mask.sum(dim=tuple(range(mask.dim() - 1)))
        kept = scores * mask
        return kept / (kept.sum(dim=-1, keepdim=True) + 1e-20) * ROUTED_SCALE

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def balance(self, rate: float) -> None:
        """Raise the bias of experts that got less than the mean since the last call, and lower that of the others."""
        self.e_score_correction_bias += rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Experts(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.gate = Router(shape)
        self.shared_experts = FeedForward(shape, shape.shared_experts * shape.expert_intermediate)
        inward = (shape.experts, shape.hidden, shape.expert_intermediate)
        outward = (shape.experts, shape.expert_intermediate, shape.hidden)
        deep = 1 / math.sqrt(2 * shape.layers)
        self.gate_proj = nn.Parameter(0.5 * torch.randn(inward) / math.sqrt(shape.hidden))
        self.up_proj = nn.Parameter(0.5 * torch.randn(inward) / math.sqrt(shape.hidden))
        self.down_proj = nn.Parameter(0.5 * deep * torch.randn(outward) / math.sqrt(shape.expert_intermediate))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        routed = self.chosen_alone if x.device.type == "cpu" else self.every
        summed: Tensor = self.shared_experts(x) + routed(flat, self.gate(flat)).view(x.shape)
        return summed

    def every(self, flat: Tensor, weights: Tensor) -> Tensor:
        """The sum of all experts for all tokens, by `weights` (tokens, experts)."""
        every = flat.expand(self.gate_proj.shape[0], -1, -1)
        hidden = functional.silu(torch.bmm(every, self.gate_proj.to(flat.dtype)))
        hidden = hidden * torch.bmm(every, self.up_proj.to(flat.dtype))
        hidden = hidden * weights.t().unsqueeze(-1).to(hidden.dtype)
        return torch.bmm(hidden, self.down_proj.to(flat.dtype)).sum(dim=0)

    def chosen_alone(self, flat: Tensor, weights: Tensor) -> Tensor:
        """The same, each expert for the tokens that chose it."""
        out = torch.zeros_like(flat)
        for expert, weight in enumerate(weights.unbind(dim=-1)):
            chosen = weight.nonzero().squeeze(-1)
            taken = flat[chosen]
            hidden = functional.silu(taken @ self.gate_proj[expert]) * (taken @ self.up_proj[expert])
            out = out.index_add(0, chosen, (hidden * weight[chosen, None]) @ self.down_proj[expert])
        return out


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Architecture, *, dense: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden)
        self.mlp = FeedForward(shape, shape.dense_intermediate) if dense else Experts(shape)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Network(nn.Module):  # type: ignore[misc]
    """The whole model. `forward` takes ids (B, T) and returns hidden states (B, T, hidden) before `lm_head`."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=0.1)
        self.layers = nn.ModuleList(Layer(shape, dense=n < shape.dense_layers) for n in range(shape.layers))
        self.norm = RMSNorm(shape.hidden)
        self.lm_head = _linear(shape.hidden, shape.vocabulary)
        self.frequencies: Tensor
        self.register_buffer("frequencies", _yarn_frequencies(shape), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(ids.shape[1], device=ids.device).float(), self.frequencies)
        rotation = (angles.cos(), angles.sin())
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(ids.device.type):
            x = x.to(torch.get_autocast_dtype(ids.device.type))
        for layer in self.layers:
            x = layer(x, rotation)
        out: Tensor = self.norm(x)
        return out

    def routers(self) -> Iterator[Router]:
        return (module for module in self.modules() if isinstance(module, Router))


def published(network: Network) -> dict[str, Tensor]:
    """The parameters under the names and in the types of a DeepSeek-V3 checkpoint: bfloat16, the bias in float32."""
    out: dict[str, Tensor] = {}
    for name, value in _parameters(network):
        value = value.detach().cpu()
        full = name if name.startswith("lm_head") else f"model.{name}"
        stem, _, last = full.rpartition(".")
        if last in PROJECTIONS:
            for expert, matrix in enumerate(value):
                out[f"{stem}.experts.{expert}.{last}.weight"] = matrix.t().contiguous().bfloat16()
        else:
            out[full] = value.float() if last == "e_score_correction_bias" else value.bfloat16()
    return out


def restore(network: Network, tensors: dict[str, Tensor]) -> None:
    """Load a checkpoint's parameters. Raises KeyError if one is missing."""
    state = network.state_dict()
    for name, value in _parameters(network):
        full = name if name.startswith("lm_head") else f"model.{name}"
        stem, _, last = full.rpartition(".")
        if last in PROJECTIONS:
            experts = [tensors[f"{stem}.experts.{n}.{last}.weight"].t() for n in range(value.shape[0])]
            state[name] = torch.stack(experts).to(value.dtype)
        else:
            state[name] = tensors[full].to(value.dtype)
    network.load_state_dict(state)


def _parameters(network: Network) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint has: all but the routers' counts of tokens."""
    return ((name, value) for name, value in network.state_dict().items() if not name.endswith(".gate.load"))


def _linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.5 * scale / math.sqrt(inputs))
    return layer


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3) ... by each token's angles: DeepSeek's interleaved layout."""
    cos, sin = rotation
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1).to(x.dtype)


def _yarn_frequencies(shape: Architecture) -> Tensor:
    """YaRN's angles per token: high frequencies as they are, low ones divided by the factor (beta_fast = beta_slow)."""
    width = shape.rope_head
    plain = ROPE_BASE ** -(torch.arange(0, width, 2).float() / width)
    turn = width * math.log(shape.original_context / (2 * math.pi)) / (2 * math.log(ROPE_BASE))
    low, high = max(math.floor(turn), 0), min(math.ceil(turn), width - 1)
    ramp = ((torch.arange(width // 2).float() - low) / (high - low or 0.001)).clamp(0, 1)
    return plain * (1 - ramp) + plain * shape.original_context / shape.context * ramp
