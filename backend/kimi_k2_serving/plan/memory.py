"""What one GPU holds: its share of the weights, and the tokens that its part of the cache has room for.

SGLang 0.5.23 fills a fraction of the memory that is free before it loads the weights: the weights and what they leave
for the cache's pool. Activations and CUDA graphs live in the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.plan.hardware import Accelerator
from kimi_k2_serving.plan.shape import BF16, FP8, K2, ModelShape

GIB = 2**30
# Held before the weights are loaded: by the driver, CUDA's context, and NCCL's buffers. SGLang's log of a start on
# 8 x H200 (sgl-project/sglang pull request 11716) says 137.3 of the 140.4 GiB are available then.
BEFORE_LOAD = int(3.1 * GIB)


@dataclass(frozen=True, slots=True)
class Placement:
    """How the model is spread over the GPUs, and the settings that decide on memory.

    `tensor` ranks in all; with `attention_data` > 1 they form that many groups, each with its own requests and cache.
    `decode_context`: ranks over which each conversation's cache is spread. `page`: tokens that are allocated together.
    `chunk`: prompt tokens that one group computes at a time. `graph_batch`: the largest captured batch of a group.
    """

    tensor: int
    cache_bytes: int
    fraction: float
    chunk: int
    running: int
    context: int
    attention_data: int = 1
    experts: int = 1
    decode_context: int = 1
    page: int = 1
    graph_batch: int = 256
    separate_head: bool = False

    @property
    def attention_tensor(self) -> int:
        """The ranks that share one group's attention heads."""
        return self.tensor // self.attention_data

    def token_bytes(self, shape: ModelShape = K2) -> int:
        """One token's cache, on each rank that holds it."""
        return shape.cache_elements * self.cache_bytes


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on one GPU. `absorbed`: the bf16 copy of the latents' projections that decoding multiplies with."""

    experts: int
    attention: int
    absorbed: int
    shared: int
    vocabulary: int
    router: int

    @property
    def total(self) -> int:
        return self.experts + self.attention + self.absorbed + self.shared + self.vocabulary + self.router


def weights_of(placement: Placement, shape: ModelShape = K2) -> Weights:
    """One GPU's weights. Experts take the same room whether expert or tensor parallelism divides them."""
    heads, ranks = placement.attention_tensor, placement.tensor
    into_heads = shape.stored(*shape.attention_into_heads, shape.latent_into_heads)
    absorbed = shape.latent * shape.heads * (shape.nope + shape.value) * BF16
    shared = shape.sparse_layers * shape.shared_experts * shape.stored(*shape.expert)
    dense = shape.dense_layers * shape.stored(*shape.dense)
    return Weights(
        experts=shape.sparse_layers * shape.experts * shape.stored(*shape.expert) // ranks,
        attention=shape.layers * (shape.stored(*shape.whole_attention) + into_heads // heads) + shape.norms,
        absorbed=shape.layers * absorbed // heads,
        shared=(shared + dense) // ranks,
        vocabulary=shape.vocabulary_matrix // heads
        + shape.vocabulary_matrix // (heads if placement.separate_head else ranks),
        router=shape.routers,
    )


@dataclass(frozen=True, slots=True)
class Pool:
    """Bytes on one GPU, tokens of the whole engine. `longest`: the tokens that one conversation can have at most."""

    free: int
    static: int
    weights: int
    room: int
    longest: int
    tokens: int

    @property
    def rest(self) -> int:
        """What activations and CUDA graphs may use."""
        return self.free - self.static


def pool_of(placement: Placement, accelerator: Accelerator, shape: ModelShape = K2) -> Pool:
    """`room` is negative, and the tokens are 0, if the weights do not fit."""
    free = accelerator.memory_bytes - BEFORE_LOAD
    static = int(free * placement.fraction)
    weights = weights_of(placement, shape).total
    room = static - weights
    pages = max(room, 0) // (placement.token_bytes(shape) * placement.page)
    longest = pages * placement.page * placement.decode_context
    return Pool(free, static, weights, room, longest, longest * placement.attention_data)


def sglang_fraction(placement: Placement, accelerator: Accelerator) -> float:
    """The fraction that SGLang 0.5.23 chooses if none is given, for a GPU of 60 GiB or more without captured prefill.

    Under attention data parallelism SGLang counts the chunk of all groups together, so its choice is then useless.
    """
    reserve = 512 + 1.5 * max(placement.chunk * placement.attention_data, 2048) + placement.tensor / 8 * 1024
    reserve += placement.graph_batch * 2
    if placement.attention_data > 1:
        per_batch = 4.5 if placement.graph_batch > 300 else 3
        reserve += placement.graph_batch * placement.attention_data * per_batch
    return round(1 - max(reserve, 10 * 1024) / accelerator.memory_mib, 3)


def cache_type(bytes_per_element: int) -> str:
    return {FP8: "fp8", BF16: "bf16"}[bytes_per_element]
