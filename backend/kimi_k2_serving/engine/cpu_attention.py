"""Causal attention on a CPU. Time grows with the new tokens times the prefix, memory with the prefix alone.

SGLang's `torch_native` backend pads the queries of a chunk to the length of its whole prefix, keeps all their scores at
once, and copies keys and values for every head. This backend inherits the storage of keys and values, and attention
that is not causal or has a window. It computes causal attention in blocks: BLOCK queries at a time attend to the tokens
that they see. It uses PyTorch's flash attention for CPUs, which keeps few scores at a time. It computes in the dtype of
the cache, and knows nothing of models or presets.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from torch.nn.functional import pad, scaled_dot_product_attention

# The number of queries in a block. Larger blocks are no faster, and a mask takes BLOCK x prefix x 2 bytes.
BLOCK = 256


class CpuAttentionBackend(TorchNativeAttnBackend):  # type: ignore[misc]
    """The plugin registers it with SGLang, under the name that the CPU presets give."""

    def _run_sdpa_forward_extend(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        extend_prefix_lens: torch.Tensor,
        extend_seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        **kind: Any,
    ) -> torch.Tensor:
        """Attend from each request's new tokens, which are its last. `query` and `output` hold the new tokens of all
        requests.
        """
        if not kind.get("causal") or special(encoder_lens, kind):
            requests = (req_to_token, req_pool_indices, seq_lens, extend_prefix_lens, extend_seq_lens, encoder_lens)
            inherited: torch.Tensor = super()._run_sdpa_forward_extend(
                query, output, k_cache, v_cache, *requests, scaling=scaling, **kind
            )
            return inherited
        begin = 0
        for row, length, new in zip(
            req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), strict=True
        ):
            keys, values = gathered(k_cache, v_cache, req_to_token[row, :length])
            for start in range(0, new, BLOCK):
                count = min(BLOCK, new - start)
                seen = length - new + start + count
                block = slice(begin + start, begin + start + count)
                attend(query[block], keys[:seen], values[:seen], scaling, output[block])
            begin += new
        return output

    def _run_sdpa_forward_decode(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        **kind: Any,
    ) -> torch.Tensor:
        """Attend from each request's last token to all of its tokens."""
        if special(encoder_lens, kind):
            requests = (req_to_token, req_pool_indices, seq_lens, encoder_lens)
            inherited: torch.Tensor = super()._run_sdpa_forward_decode(
                query, output, k_cache, v_cache, *requests, scaling=scaling, **kind
            )
            return inherited
        for number, (row, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
            keys, values = gathered(k_cache, v_cache, req_to_token[row, :length])
            attend(query[number : number + 1], keys, values, scaling, output[number : number + 1])
        return output


def special(encoder_lens: torch.Tensor | None, kind: Mapping[str, Any]) -> bool:
    """Whether this is not plain self-attention: it is cross-attention, has an encoder, or has a sliding window."""
    return encoder_lens is not None or kind.get("is_cross_attn", False) or kind.get("sliding_window_size") is not None


def gathered(k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A request's keys and values, each [tokens, heads, size]. With MLA both are the same latents, which are read only
    once.
    """
    keys = k_cache.index_select(0, slots)
    if k_cache.data_ptr() == v_cache.data_ptr():
        return keys, keys
    return keys, v_cache.index_select(0, slots)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None, output: torch.Tensor
) -> None:
    """Attend from the last tokens of a request, [tokens, heads, size], to all tokens that each of them sees.

    Flash attention needs keys and values of the same size. Smaller values are padded, and the padding of the result is
    dropped. The key heads are the batch dimension, so no key is copied for the query heads that share it.
    """
    new, heads, size = query.shape
    seen, groups, _ = keys.shape
    values = keys if values is keys else pad(values, (0, size - values.shape[-1]))
    grouped = query.to(keys.dtype).view(new, groups, heads // groups, size)
    keys, values = keys.permute(1, 0, 2)[:, None], values.permute(1, 0, 2)[:, None]
    if new == 1:  # One token sees all tokens. No mask is needed, so its heads can be the queries.
        attended = scaled_dot_product_attention(grouped.permute(1, 0, 2, 3), keys, values, scale=scaling)
        output.copy_(attended.reshape(1, heads, size)[..., : output.shape[-1]])
        return
    shape = (groups, heads // groups, seen, size)
    added = mask(new, seen, keys.dtype)
    attended = scaled_dot_product_attention(
        grouped.permute(1, 2, 0, 3), keys.expand(shape), values.expand(shape), attn_mask=added, scale=scaling
    )
    output.copy_(attended.permute(2, 0, 1, 3).reshape(new, heads, size)[..., : output.shape[-1]])


# All layers of a forward pass use the same mask.
@functools.lru_cache(maxsize=1)
def mask(new: int, seen: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask that is added to the scores of the last `new` of `seen` tokens: minus infinity for each later token,
    else 0.
    """
    added = torch.zeros(new, seen, dtype=dtype)
    added[:, seen - new :] = torch.full((new, new), -torch.inf, dtype=dtype).triu(1)
    return added
