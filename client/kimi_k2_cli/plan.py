"""`kimi-k2 plan --gpu b200 --gpus 8`: whether K2 fits, which preset to use, and the arithmetic behind both.

It only prints what kimi_k2_serving.plan computes, and needs neither a GPU nor the server's packages.
"""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from typing import Any

from kimi_k2_serving.plan.hardware import ACCELERATORS, hardware_of
from kimi_k2_serving.plan.memory import GIB, weights_of
from kimi_k2_serving.plan.planner import Plan, make_plan
from kimi_k2_serving.plan.presets import gpu_presets, sglang_flags
from kimi_k2_serving.plan.report import arithmetic, many
from kimi_k2_serving.plan.shape import K2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: kimi-k2 plan --gpu h200 --gpus 16 --nodes 2 --context 65536 --concurrency 8\n"
        "The figures are computed, not measured on a GPU. Exit code 1: it does not fit."
    )
    names = ", ".join(each.name for each in ACCELERATORS)
    parser.add_argument("--gpu", required=True, metavar="NAME", help=f"one of: {names}")
    parser.add_argument("--gpus", required=True, type=int, metavar="N", help="GPUs in total, over all nodes")
    parser.add_argument("--nodes", type=int, metavar="N", help="default: as many as are usual for these GPUs")
    parser.add_argument("--context", type=int, metavar="N", help="tokens in each request (default: the most that fits)")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="requests at a time (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    hardware = hardware_of(args.gpu, args.gpus, args.nodes)
    plan = make_plan(hardware, gpu_presets(), context=args.context, concurrency=args.concurrency)
    print(json.dumps(as_json(plan), indent=2) if args.json else as_text(plan))
    return 0 if plan.fits else 1


def as_json(plan: Plan) -> dict[str, Any]:
    held, step, prompt = weights_of(plan.placement), plan.decode, plan.prefill
    return {
        "hardware": str(plan.hardware),
        "fits": plan.fits,
        "why": plan.why,
        "measured": False,
        "preset": plan.preset.name if plan.preset else None,
        "evidence": plan.preset.evidence if plan.preset else None,
        "flags": list(sglang_flags(plan.preset.server_args)) if plan.preset else [],
        "placement": asdict(plan.placement),
        "context": plan.context,
        "concurrency": plan.concurrency,
        "bytes_per_token": plan.placement.token_bytes(),
        "kv_tokens": plan.pool.tokens,
        "longest_conversation": min(plan.pool.longest, plan.placement.context),
        "weights": {
            "checkpoint_gib": round(K2.checkpoint_bytes() / GIB, 2),
            "gib_per_gpu": round(held.total / GIB, 2),
            **{name: round(getattr(held, name) / GIB, 2) for name in held.__slots__},
        },
        "memory": {
            "gib_before_loading": round(plan.pool.free / GIB, 2),
            "fraction": plan.placement.fraction,
            "pool_gib_per_gpu": round(plan.pool.room / GIB, 2),
            "rest_gib_per_gpu": round(plan.pool.rest / GIB, 2),
        },
        "decode": {
            "roofline_ms": round(step.roofline_seconds * 1e3, 2),
            "estimate_ms": round(step.estimated_seconds * 1e3, 2),
            "estimated_tokens_per_second": round(step.in_total, 1),
            "experts_touched": round(step.experts_touched, 1),
            "weight_bytes_per_gpu": step.weight_bytes,
            "cache_bytes_per_gpu": step.cache_bytes,
        },
        "prefill": {
            "roofline_seconds": round(prompt.roofline_seconds, 2),
            "estimate_seconds": round(prompt.estimated_seconds, 2),
            "linear_operations": prompt.linear_operations,
            "attention_operations": prompt.attention_operations,
        },
        "arithmetic": arithmetic(plan.hardware, plan.placement),
    }


def as_text(plan: Plan) -> str:
    load = f"{many(plan.concurrency)} of {plan.context:,} tokens"
    lines = [
        f"Kimi-K2-Instruct-0905, {load}, on {plan.hardware}: {'fits' if plan.fits else 'does not fit'}.",
        f"{plan.why[0].upper()}{plan.why[1:]}.",
        "",
        *(f"  {line}" for line in arithmetic(plan.hardware, plan.placement)),
        *([this_load(plan)] if plan.fits else []),
        "",
        "Computed from config.json and data sheets, not measured on a GPU.",
    ]
    if plan.preset is None:
        return "\n".join([*lines, "There is no preset for this hardware."])
    start = f"Preset {plan.preset.name} ({plan.preset.evidence}): KIMI_K2_PRESET={plan.preset.name}"
    return "\n".join([*lines, start, f"SGLang's flags: {shlex.join(sglang_flags(plan.preset.server_args))}"])


def this_load(plan: Plan) -> str:
    step = plan.decode
    roofline, estimate = step.roofline_seconds * 1e3, step.estimated_seconds * 1e3
    return (
        f"  this load roofline {roofline:.1f} ms a step, estimate {estimate:.0f} ms, {step.in_total:,.0f} tokens/s;"
        f" one prompt: estimate {plan.prefill.estimated_seconds:.1f} s"
    )
