"""Rooflines of decoding and prefill, and estimates of what is left of them in practice.

A roofline counts only what can't be avoided: in a decode step each GPU reads its weights and cache once; a prefill
multiplies each token with its weights and with all tokens before it. Decoding is never bound by arithmetic here:
absorbed attention takes at most 242 operations for each byte of an fp8 cache, and these GPUs do more in the time of one
read.
The estimates use the constants below. None is measured: a first run on the machine itself replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.plan.hardware import Hardware
from kimi_k2_serving.plan.memory import Placement, weights_of
from kimi_k2_serving.plan.shape import BF16, FP8, K2, ModelShape, elements

# Shares of the data sheets' maxima that good kernels reach, and what a step takes besides reading and all-reduces.
BANDWIDTH_SHARE = 0.65
OPERATIONS_SHARE = 0.45
KERNELS_SECONDS = 3.5e-3
# After attention and after the experts; with a spread cache, the partial results of attention are exchanged as well.
ALL_REDUCES_PER_LAYER = 2


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """One token for each of `batch` requests. Bytes are those that the busiest GPU reads."""

    batch: int
    experts_touched: float
    weight_bytes: int
    cache_bytes: int
    roofline_seconds: float
    estimated_seconds: float

    @property
    def per_request(self) -> float:
        """Tokens a second."""
        return 1 / self.estimated_seconds

    @property
    def in_total(self) -> float:
        return self.batch / self.estimated_seconds


def decode_step(
    hardware: Hardware, placement: Placement, batch: int, context: int, shape: ModelShape = K2
) -> DecodeStep:
    """A step for `batch` requests of `context` tokens each, spread evenly over groups and experts."""
    touched = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** batch)
    held = weights_of(placement, shape)
    head = shape.vocabulary_matrix // (placement.attention_tensor if placement.separate_head else placement.tensor)
    # Decoding multiplies with the absorbed copy, not with the matrix that it was made from.
    unused = shape.layers * shape.stored(shape.latent_into_heads) // placement.attention_tensor
    weights = held.attention - unused + held.absorbed + held.shared + held.router + head
    weights += int(held.experts * touched / shape.experts)
    tokens = -(-batch // placement.attention_data) * context
    cache = tokens * placement.token_bytes(shape) // placement.decode_context
    roofline = (weights + cache) / hardware.accelerator.bandwidth
    message = batch * shape.hidden * BF16
    exchanges = shape.layers * (ALL_REDUCES_PER_LAYER + (placement.decode_context > 1))
    reduces = exchanges * (hardware.link.start_seconds + message / hardware.link.small)
    return DecodeStep(batch, touched, weights, cache, roofline, roofline / BANDWIDTH_SHARE + reduces + KERNELS_SECONDS)


@dataclass(frozen=True, slots=True)
class Prefill:
    """One prompt of `tokens` tokens, without a cached prefix and alone on the machine."""

    tokens: int
    linear_operations: float
    attention_operations: float
    roofline_seconds: float
    estimated_seconds: float


def prefill(hardware: Hardware, placement: Placement, tokens: int, shape: ModelShape = K2) -> Prefill:
    """Hopper computes attention in bf16; Blackwell in fp8 if the cache is fp8. One group computes its own attention."""
    gpus, own = placement.tensor, placement.attention_tensor
    routed = shape.experts_per_token + shape.shared_experts
    ffn = shape.sparse_layers * routed * elements(*shape.expert) + shape.dense_layers * elements(*shape.dense)
    projections = shape.layers * elements(*shape.whole_attention, *shape.attention_into_heads, shape.latent_into_heads)
    # Two operations per element; a token attends to half of the prompt on average.
    pairs = shape.layers * shape.heads * (shape.nope + shape.rope + shape.value) * tokens**2
    accelerator = hardware.accelerator
    in_fp8 = accelerator.is_blackwell and placement.cache_bytes == FP8
    rate = accelerator.fp8_operations if in_fp8 else accelerator.bf16_operations
    linear = 2 * tokens * (ffn / gpus + projections / own) / accelerator.fp8_operations
    roofline = linear + pairs / own / rate
    reduces = shape.layers * ALL_REDUCES_PER_LAYER * tokens * shape.hidden * BF16 / hardware.link.large
    return Prefill(
        tokens, 2.0 * tokens * (ffn + projections), float(pairs), roofline, roofline / OPERATIONS_SHARE + reduces
    )
