"""The CPU's attention beside SGLang's own: the same results, and no work for tokens that are not new.

Importing SGLang's backend takes seconds and warns of what a CPU lacks.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

SLOTS = 4096
ROWS = 8
# Requests as (tokens before, new tokens).
ALONE = [(0, 5)]
BATCH = [(0, 7), (300, 40), (3, 1), (0, 1), (90, 64)]
BLOCKS = [(0, 300), (256, 257)]


@dataclass(frozen=True, slots=True)
class Shape:
    """Heads and sizes of a model; with `latent`, values are the first part of the keys, as in absorbed MLA."""

    heads: int
    key_heads: int
    key: int
    value: int
    latent: bool = False


SHAPES = {
    "absorbed MLA": Shape(4, 1, 80, 64, latent=True),
    "MLA with its keys and values unpacked": Shape(4, 4, 80, 64),
    "grouped queries": Shape(8, 2, 32, 32),
    "one key head per head": Shape(4, 4, 32, 32),
}


@pytest.fixture(scope="module")
def cpu_attention() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kimi_k2_serving.engine import cpu_attention
    return cpu_attention


@dataclass(frozen=True, slots=True)
class Case:
    shape: Shape
    query: torch.Tensor
    caches: tuple[torch.Tensor, torch.Tensor]
    table: torch.Tensor
    rows: torch.Tensor
    lengths: torch.Tensor
    prefixes: torch.Tensor
    new: torch.Tensor

    def extended(self, backend: type[Any], **changes: Any) -> torch.Tensor:
        return self._run(backend, "extend", self.prefixes, self.new, causal=True, **changes)

    def decoded(self, backend: type[Any]) -> torch.Tensor:
        return self._run(backend, "decode")

    def _run(self, backend: type[Any], mode: str, *lengths: torch.Tensor, **changes: Any) -> torch.Tensor:
        """Call what both backends have under this name, on an object that needs nothing else."""
        output = self.query.new_full((*self.query.shape[:2], self.shape.value), torch.nan)
        given = (*self.caches, self.table, self.rows, self.lengths, *lengths)
        method = getattr(backend, f"_run_sdpa_forward_{mode}")
        gqa = self.shape.heads != self.shape.key_heads
        method(backend.__new__(backend), self.query, output, *given, scaling=0.1, enable_gqa=gqa, **changes)
        return output

    def exact(self) -> torch.Tensor:
        """The definition, in float64, with all scores of a request at once."""
        outputs, begin = [], 0
        share = self.shape.heads // self.shape.key_heads
        for row, length, new in zip(self.rows.tolist(), self.lengths.tolist(), self.new.tolist(), strict=True):
            slots = self.table[row, :length].long()
            keys, values = (cache[slots].double().repeat_interleave(share, 1) for cache in self.caches)
            scores = torch.einsum("qhd,thd->hqt", self.query[begin : begin + new].double(), keys) * 0.1
            later = torch.arange(length) > torch.arange(length - new, length)[:, None]
            outputs.append(torch.einsum("hqt,thd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), values))
            begin += new
        return torch.cat(outputs)


def case(shape: Shape, requests: list[tuple[int, int]], dtype: torch.dtype = torch.bfloat16) -> Case:
    """Keys and values at random places of the cache, as a cached prefix has them."""
    random = torch.Generator().manual_seed(len(requests))
    draw = lambda *sizes: torch.randn(sizes, generator=random).to(dtype)  # noqa: E731
    keys = draw(SLOTS, shape.key_heads, shape.key)
    values = keys[..., : shape.value] if shape.latent else draw(SLOTS, shape.key_heads, shape.value)
    table = torch.stack([torch.randperm(SLOTS, generator=random) for _ in range(ROWS)]).int()
    rows = torch.randperm(ROWS, generator=random)[: len(requests)]
    prefixes, new = (torch.tensor(each) for each in zip(*requests, strict=True))
    query = draw(int(new.sum()), shape.heads, shape.key)
    return Case(shape, query, (keys, values), table, rows, prefixes + new, prefixes, new)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).abs().max())


@pytest.mark.parametrize("requests", [ALONE, BATCH, BLOCKS], ids=["alone", "a batch", "several blocks"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_new_tokens_attend_as_in_sglang_s_own_backend(
    cpu_attention: ModuleType, shape: Shape, requests: list[tuple[int, int]]
) -> None:
    """Within the noise of bfloat16: no further from the exact result than SGLang's, give or take one rounding."""
    given = case(shape, requests)
    exact = given.exact()
    theirs = error(given.extended(cpu_attention.TorchNativeAttnBackend), exact)
    assert error(given.extended(cpu_attention.CpuAttentionBackend), exact) <= theirs + 2**-8


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_decoded_token_attends_as_in_sglang_s_own_backend(cpu_attention: ModuleType, shape: Shape) -> None:
    given = case(shape, [(prefix, 1) for prefix in (0, 1, 64, 1500)])
    exact = given.exact()
    theirs = error(given.decoded(cpu_attention.TorchNativeAttnBackend), exact)
    assert error(given.decoded(cpu_attention.CpuAttentionBackend), exact) <= theirs + 2**-8


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_in_float_attention_is_exact(cpu_attention: ModuleType, shape: Shape) -> None:
    given = case(shape, BATCH, torch.float32)
    assert error(given.extended(cpu_attention.CpuAttentionBackend), given.exact()) < 1e-5


def test_queries_of_a_wider_type_than_the_cache_are_accepted(cpu_attention: ModuleType) -> None:
    """The demo computes in float32 and caches in bfloat16."""
    narrow = case(SHAPES["absorbed MLA"], BATCH)
    wide = Case(narrow.shape, narrow.query.float(), *(getattr(narrow, name) for name in Case.__slots__[2:]))
    found = wide.extended(cpu_attention.CpuAttentionBackend)
    assert found.dtype == torch.float32
    assert error(found, narrow.exact()) < 2**-6


def test_a_prefix_costs_its_new_tokens_only(cpu_attention: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, masks = [], []

    def counted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **given: Any) -> torch.Tensor:
        scores.append(math.prod(query.shape[:3]) * key.shape[2])
        masks.append(given["attn_mask"].numel())
        return original(query, key, value, **given)

    original = cpu_attention.scaled_dot_product_attention
    monkeypatch.setattr(cpu_attention, "scaled_dot_product_attention", counted)
    prefix, new, block, shape = 3000, 600, cpu_attention.BLOCK, SHAPES["absorbed MLA"]
    case(shape, [(prefix, new)]).extended(cpu_attention.CpuAttentionBackend)
    assert sum(scores) <= shape.heads * new * (prefix + new)
    assert max(masks) <= block * (prefix + new)


def test_a_window_is_left_to_sglang_s_own_backend(cpu_attention: ModuleType) -> None:
    given = case(SHAPES["grouped queries"], BATCH)
    ours = given.extended(cpu_attention.CpuAttentionBackend, sliding_window_size=16)
    theirs = given.extended(cpu_attention.TorchNativeAttnBackend, sliding_window_size=16)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, given.extended(cpu_attention.CpuAttentionBackend))
