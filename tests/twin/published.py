"""The tensors of Kimi-K2-Instruct-0905 as its shards hold them: names, shapes and types in block fp8.

Every projection is stored in fp8 with one float32 scale for each block of 128 x 128, also for an incomplete one. The
embeddings, the output head, the routers and the norms are not quantized. This is the layout that the published
quantization_config and DeepSeek-V3's format prescribe; the checkpoint's own index was not at hand to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kimi_k2_serving.demo import random_weights
from kimi_k2_serving.demo.architecture import Architecture
from tests.twin.shape import QUANTIZATION

BLOCK_ROWS, BLOCK_COLUMNS = QUANTIZATION["weight_block_size"]
# Types as safetensors names them.
BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


@dataclass(frozen=True, slots=True)
class Stored:
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def itemsize(self) -> int:
        return BYTES[self.dtype]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.itemsize


def stored(shape: Architecture) -> Iterator[Stored]:
    for each in random_weights.tensors(shape):
        if not each.name.endswith("_proj.weight") and not each.name.endswith("_proj_with_mqa.weight"):
            yield Stored(each.name, each.shape, each.dtype)
            continue
        rows, columns = each.shape
        blocks = (-(-rows // BLOCK_ROWS), -(-columns // BLOCK_COLUMNS))
        yield Stored(each.name, each.shape, "F8_E4M3")
        yield Stored(f"{each.name}_scale_inv", blocks, "F32")
