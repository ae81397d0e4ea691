"""The sizes of Kimi-K2-Instruct-0905 that determine memory and speed, from its published config.json."""

from __future__ import annotations

from dataclasses import dataclass

FP8, BF16, FP32 = 1, 2, 4
Matrix = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes in elements; `context` in tokens. `block` is the side of a block of fp8 weights that shares one fp32 scale;
    0: bf16 weights without scales.
    """

    hidden: int = 7168
    layers: int = 61
    dense_layers: int = 1
    heads: int = 64
    query_rank: int = 1536
    latent: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128
    dense_intermediate: int = 18432
    expert_intermediate: int = 2048
    experts: int = 384
    experts_per_token: int = 8
    shared_experts: int = 1
    vocabulary: int = 163_840
    context: int = 262_144
    block: int = 128

    @property
    def sparse_layers(self) -> int:
        return self.layers - self.dense_layers

    @property
    def whole_attention(self) -> tuple[Matrix, ...]:
        """A layer's matrices that every GPU holds whole: they make the latents, which have no heads."""
        return ((self.hidden, self.query_rank), (self.hidden, self.latent + self.rope))

    @property
    def attention_into_heads(self) -> tuple[Matrix, ...]:
        return ((self.query_rank, self.heads * (self.nope + self.rope)), (self.heads * self.value, self.hidden))

    @property
    def latent_into_heads(self) -> Matrix:
        return (self.latent, self.heads * (self.nope + self.value))

    @property
    def expert(self) -> tuple[Matrix, ...]:
        return ((self.hidden, self.expert_intermediate),) * 3

    @property
    def dense(self) -> tuple[Matrix, ...]:
        return ((self.hidden, self.dense_intermediate),) * 3

    @property
    def cache_elements(self) -> int:
        """Per token: one latent and one rotary key for each layer."""
        return (self.latent + self.rope) * self.layers

    def stored(self, *matrices: Matrix) -> int:
        """The bytes of matrices. In block fp8 there is one fp32 scale for each block, also for an incomplete one."""
        side = self.block
        if not side:
            return elements(*matrices) * BF16
        blocks = sum(-(-rows // side) * -(-columns // side) for rows, columns in matrices)
        return elements(*matrices) * FP8 + blocks * FP32

    @property
    def norms(self) -> int:
        """The bytes of all normalisation weights, in bf16."""
        per_layer = 2 * self.hidden + self.query_rank + self.latent
        return (self.layers * per_layer + self.hidden) * BF16

    @property
    def routers(self) -> int:
        """The bytes of all routers: bf16 weights and one fp32 bias for each expert."""
        return self.sparse_layers * self.experts * (self.hidden * BF16 + FP32)

    @property
    def vocabulary_matrix(self) -> int:
        """The bytes of the embeddings, and those of the output head: bf16."""
        return self.vocabulary * self.hidden * BF16

    def checkpoint_bytes(self) -> int:
        """All weights, as they lie on the disk."""
        attention = self.stored(*self.whole_attention, *self.attention_into_heads, self.latent_into_heads)
        experts = self.sparse_layers * (self.experts + self.shared_experts) * self.stored(*self.expert)
        dense = self.dense_layers * self.stored(*self.dense)
        return self.layers * attention + experts + dense + self.norms + self.routers + 2 * self.vocabulary_matrix


def elements(*matrices: Matrix) -> int:
    return sum(rows * columns for rows, columns in matrices)


K2 = ModelShape()
