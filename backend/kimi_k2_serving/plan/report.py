"""The planner's arithmetic in words: the comment of a preset, and what `kimi-k2 plan` prints."""

from __future__ import annotations

from kimi_k2_serving.plan.hardware import Hardware
from kimi_k2_serving.plan.memory import BEFORE_LOAD, GIB, Placement, cache_type, pool_of
from kimi_k2_serving.plan.shape import K2, ModelShape
from kimi_k2_serving.plan.speed import decode_step, prefill

# The loads that every preset's comment shows: requests at a time, tokens in each, and a long prompt.
BATCHES = (1, 64)
CONTEXT = 8_192
PROMPT = 200_000


def arithmetic(hardware: Hardware, placement: Placement, shape: ModelShape = K2) -> list[str]:
    """Weights, memory, cache, decode and prefill: one line each, or two. No speeds if the weights do not fit."""
    accelerator = hardware.accelerator
    pool = pool_of(placement, accelerator, shape)
    groups, ranks = placement.attention_data, placement.decode_context
    tokens = f"{pool.tokens:,} tokens"
    if groups > 1:
        tokens = f"{pool.longest:,} tokens in each of {groups} groups, {tokens}"
    if ranks > 1:
        tokens += f", as {ranks} GPUs hold different ones"
    lines = [
        f"weights   {gib(shape.checkpoint_bytes())} GiB on the disk, {gib(pool.weights)} GiB on each GPU",
        f"memory    {accelerator.memory_mib:,} MiB - {gib(BEFORE_LOAD)} GiB before loading = {gib(pool.free)} GiB;"
        f" x {placement.fraction} = {gib(pool.static)} GiB",
        f"          {gib(pool.rest)} GiB are left for activations and CUDA graphs",
        f"pool      {gib(pool.static)} - {gib(pool.weights)} = {gib(pool.room)} GiB on each GPU",
        f"cache     {shape.latent + shape.rope} x {shape.layers} layers = {placement.token_bytes(shape):,} bytes a"
        f" token in {cache_type(placement.cache_bytes)} -> {tokens}",
    ]
    if pool.room > 0:
        lines += [*decode_lines(hardware, placement, shape), prefill_line(hardware, placement, shape)]
    return lines


def decode_lines(hardware: Hardware, placement: Placement, shape: ModelShape) -> list[str]:
    heads = ("decode    ", "          ")
    return [
        f"{head}{many(batch)} of {CONTEXT:,} tokens: roofline {step.roofline_seconds * 1e3:.1f} ms a step,"
        f" estimate {step.estimated_seconds * 1e3:.0f} ms, {step.in_total:,.0f} tokens/s"
        for head, batch in zip(heads, BATCHES, strict=True)
        for step in [decode_step(hardware, placement, batch, CONTEXT, shape)]
    ]


def prefill_line(hardware: Hardware, placement: Placement, shape: ModelShape) -> str:
    tokens = min(PROMPT, placement.context)
    found = prefill(hardware, placement, tokens, shape)
    return (
        f"prefill   {tokens:,} tokens: {found.linear_operations / 1e15:.1f} + {found.attention_operations / 1e15:.1f}"
        f" peta-operations, roofline {found.roofline_seconds:.1f} s, estimate {found.estimated_seconds:.0f} s"
    )


def many(batch: int) -> str:
    return "1 request" if batch == 1 else f"{batch} requests"


def gib(size: int) -> str:
    return f"{size / GIB:.1f}"
