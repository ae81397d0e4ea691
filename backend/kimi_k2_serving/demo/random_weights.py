"""Random weights with the names of a DeepSeek-V3 checkpoint, written to a safetensors file.

The same seed gives the same bytes on every machine: the numbers are PCG64's raw 64-bit output, a stream that numpy
guarantees, scaled with single IEEE operations; no logarithm and no distribution of a library is used. The scales keep
activations near unit size and the logits' standard deviation near `LOGIT_STD`, so that sampling at temperature 1 draws
from hundreds of tokens and greedy decoding has almost no ties.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kimi_k2_serving.demo.architecture import Architecture

SEED = 20_250_905
LOGIT_STD = 2.5


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """A tensor of random numbers: uniform around `mean`, standard deviation `std`, stored as bfloat16 or float32."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0
    dtype: str = "BF16"


def tensors(shape: Architecture) -> Iterator[WeightTensor]:
    """Every tensor of the model, in file order."""
    yield WeightTensor("model.embed_tokens.weight", (shape.vocabulary, shape.hidden), 1.0)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield _norm(f"{prefix}.input_layernorm", shape.hidden)
        yield from _attention(f"{prefix}.self_attn", shape)
        yield _norm(f"{prefix}.post_attention_layernorm", shape.hidden)
        if layer < shape.dense_layers:
            yield from _feed_forward(f"{prefix}.mlp", shape, shape.dense_intermediate)
        else:
            yield from _experts(f"{prefix}.mlp", shape)
    yield _norm("model.norm", shape.hidden)
    yield WeightTensor("lm_head.weight", (shape.vocabulary, shape.hidden), LOGIT_STD / math.sqrt(shape.hidden))


def _attention(prefix: str, shape: Architecture) -> Iterator[WeightTensor]:
    yield _linear(f"{prefix}.q_a_proj", shape.query_rank, shape.hidden)
    yield _norm(f"{prefix}.q_a_layernorm", shape.query_rank)
    yield _linear(f"{prefix}.q_b_proj", shape.heads * (shape.nope_head + shape.rope_head), shape.query_rank)
    yield _linear(f"{prefix}.kv_a_proj_with_mqa", shape.key_value_rank + shape.rope_head, shape.hidden)
    yield _norm(f"{prefix}.kv_a_layernorm", shape.key_value_rank)
    yield _linear(f"{prefix}.kv_b_proj", shape.heads * (shape.nope_head + shape.value_head), shape.key_value_rank)
    yield _linear(f"{prefix}.o_proj", shape.hidden, shape.heads * shape.value_head)


def _experts(prefix: str, shape: Architecture) -> Iterator[WeightTensor]:
    yield _linear(f"{prefix}.gate", shape.experts, shape.hidden)
    # The load-balancing bias: it is added to the sigmoid scores for the choice of experts, but not for their weights.
    yield WeightTensor(f"{prefix}.gate.e_score_correction_bias", (shape.experts,), 0.01, dtype="F32")
    for expert in range(shape.experts):
        yield from _feed_forward(f"{prefix}.experts.{expert}", shape, shape.expert_intermediate)
    yield from _feed_forward(f"{prefix}.shared_experts", shape, shape.shared_experts * shape.expert_intermediate)


def _feed_forward(prefix: str, shape: Architecture, intermediate: int) -> Iterator[WeightTensor]:
    yield _linear(f"{prefix}.gate_proj", intermediate, shape.hidden)
    yield _linear(f"{prefix}.up_proj", intermediate, shape.hidden)
    yield _linear(f"{prefix}.down_proj", shape.hidden, intermediate)


def _linear(name: str, rows: int, columns: int) -> WeightTensor:
    return WeightTensor(f"{name}.weight", (rows, columns), 1.0 / math.sqrt(columns))


def _norm(name: str, width: int) -> WeightTensor:
    return WeightTensor(f"{name}.weight", (width,), 0.05, mean=1.0)


def write_weights(path: Path, wanted: Iterable[WeightTensor], *, seed: int = SEED) -> int:
    """Draw the tensors in order from one random stream, write them, and return the number of parameters.

    The format: the header's length (8 bytes, little endian), the JSON header, padded with spaces to 8 bytes, the data.
    """
    bits = np.random.PCG64(seed)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes] = []
    end = parameters = 0
    for tensor in wanted:
        data = _data(tensor, bits)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(data)],
        }
        chunks.append(data)
        end += len(data)
        parameters += math.prod(tensor.shape)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(chunks)
    return parameters


def _data(tensor: WeightTensor, bits: np.random.PCG64) -> bytes:
    # A float32 holds 24 random bits exactly. A uniform distribution of half-width w has the deviation w / sqrt(3).
    integers = bits.random_raw(math.prod(tensor.shape)) >> np.uint64(40)
    unit = integers.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    values = unit * np.float32(tensor.std * math.sqrt(3.0)) + np.float32(tensor.mean)
    if tensor.dtype == "F32":
        return bytes(values.astype("<f4").data)
    return bytes(_bfloat16(values).astype("<u2").data)


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, ties to even."""
    word = values.view(np.uint32)
    rounded = word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
    halves: NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    return halves
