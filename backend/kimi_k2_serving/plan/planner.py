"""Answers what `kimi-k2 plan` asks: whether K2 fits on this hardware, with which preset, and what to expect of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.plan.hardware import Hardware
from kimi_k2_serving.plan.memory import Placement, Pool, pool_of, sglang_fraction
from kimi_k2_serving.plan.presets import GpuPreset
from kimi_k2_serving.plan.report import gib
from kimi_k2_serving.plan.shape import FP8, K2
from kimi_k2_serving.plan.speed import DecodeStep, Prefill, decode_step, prefill

# The placement that is shown for hardware without a preset: plain tensor parallelism with an fp8 cache.
CHUNK, RUNNING = 4_096, 64


@dataclass(frozen=True, slots=True)
class Plan:
    """`context` tokens in each of `concurrency` requests. `why` says why they fit or not. `preset` may be None."""

    hardware: Hardware
    context: int
    concurrency: int
    preset: GpuPreset | None
    placement: Placement
    pool: Pool
    fits: bool
    why: str
    decode: DecodeStep
    prefill: Prefill


def make_plan(
    hardware: Hardware, presets: Sequence[GpuPreset], *, context: int | None = None, concurrency: int = 1
) -> Plan:
    """Choose the preset for this hardware that holds the load and decodes it fastest; an experimental one only if no
    other holds it. Without `context`, the load is one conversation of the longest length that the preset allows.
    """
    if concurrency < 1:
        raise InvalidValue("must be at least 1", field="concurrency")
    if context is not None and not 1 <= context <= K2.context:
        raise InvalidValue(f"must be from 1 to {K2.context}, K2's own limit", field="context")
    candidates = [each for each in presets if each.hardware == hardware]
    plans = [_plan(hardware, each.placement, each, context, concurrency) for each in candidates]
    if not plans:
        return _plan(hardware, plain_placement(hardware), None, context, concurrency)
    return min(plans, key=lambda plan: (not plan.fits, _experimental(plan), plan.decode.estimated_seconds))


def plain_placement(hardware: Hardware) -> Placement:
    placement = Placement(hardware.gpus, FP8, 0.0, CHUNK, RUNNING, K2.context, page=64, graph_batch=RUNNING)
    fraction = sglang_fraction(placement, hardware.accelerator)
    return Placement(hardware.gpus, FP8, fraction, CHUNK, RUNNING, K2.context, page=64, graph_batch=RUNNING)


def _experimental(plan: Plan) -> bool:
    return plan.preset is not None and plan.preset.is_experimental


def _plan(
    hardware: Hardware, placement: Placement, preset: GpuPreset | None, context: int | None, concurrency: int
) -> Plan:
    pool = pool_of(placement, hardware.accelerator)
    length = context or min(placement.context, pool.longest or placement.context)
    obstacle = _obstacle(hardware, placement, pool, length, concurrency)
    return Plan(
        hardware,
        length,
        concurrency,
        preset,
        placement,
        pool,
        not obstacle,
        obstacle or f"the cache holds {pool.tokens:,} tokens, and this load needs {length * concurrency:,}",
        decode_step(hardware, placement, concurrency, length),
        prefill(hardware, placement, length),
    )


def _obstacle(hardware: Hardware, placement: Placement, pool: Pool, context: int, concurrency: int) -> str:
    """Why the load does not fit, or ""."""
    if not splits_into_blocks(placement.tensor):
        return f"an expert can't be divided over {placement.tensor} GPUs in whole blocks: use 1, 2, 4, 8 or 16"
    if pool.room <= 0:
        return (
            f"the weights take {gib(pool.weights)} GiB of each GPU, more than the {gib(max(pool.static, 0))} GiB that"
            f" {hardware.accelerator.name.upper()} leaves for weights and cache"
        )
    if context > placement.context:
        return f"the preset's context is {placement.context:,} tokens: set context_length in engine.yaml"
    if concurrency > placement.running:
        return f"at most {placement.running:,} requests run at a time: set max_running_requests in engine.yaml"
    groups = placement.attention_data
    if -(-concurrency // groups) * context > pool.longest:
        each = f" in each of {groups} groups" if groups > 1 else ""
        return f"the cache holds {pool.longest:,} tokens{each}; {concurrency:,} x {context:,} do not fit"
    return ""


def splits_into_blocks(ranks: int) -> bool:
    share, rest = divmod(K2.expert_intermediate, ranks)
    return rest == 0 and share % K2.block == 0
