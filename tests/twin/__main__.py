"""`scripts/twin`: build K2's twin, serve it by the engine's own host and supervisor, and compare its memory.

It is served alone and, without `--short`, over two processes (tp 2). Each time the weights in memory must agree with
the planner, and a greedy answer must come twice the same. Exit 1 if not. SGLang 0.5.23 can't also divide the experts
between processes on a CPU (ep 2): docs/measurements.md says why.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from kimi_k2_serving.demo.build import DemoWeights, build_checkpoint
from kimi_k2_serving.engine.build import build_supervised
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2
from kimi_k2_serving.engine.config import engine_of_preset
from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.engine.supervisor import SupervisedEngine
from kimi_k2_serving.plan.memory import Placement, weights_of
from kimi_k2_serving.plan.shape import BF16
from tests.support import tally
from tests.support.vocabulary import reference_directory
from tests.twin.build import build
from tests.twin.shape import TWIN, planned

ROOT = Path(__file__).parents[2]
MIB = 2**20
# The host has what a scheduler has but for the weights, the cache, the grammars' vocabulary and working memory.
WORKING = 256 * MIB
PROMPT = tuple(range(1000, 1020))
ALONE: dict[str, Any] = {}
DIVIDED = {"tp_size": 2}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/twin", description=__doc__)
    parser.add_argument("--short", action="store_true", help="serve it alone only")
    options = parser.parse_args(argv)
    demo = ROOT / ".cache" / "checkpoints" / "demo"
    build_checkpoint(demo, DemoWeights.TRAINED)
    with tempfile.TemporaryDirectory(prefix="kimi-k2-twin-") as workspace:
        begun = time.monotonic()
        checkpoint = Path(workspace, "checkpoint")
        size = build(checkpoint, demo, reference_directory())
        faults = [] if size == planned().checkpoint_bytes() else [f"{size} bytes of weights, not as planned"]
        print(f"built: {size / 1e6:.0f} MB in {time.monotonic() - begun:.0f} s", flush=True)
        for how in [ALONE] if options.short else [ALONE, DIVIDED]:
            faults += asyncio.run(serve(checkpoint, Path(workspace), how))
    for fault in faults:
        print(f"  BROKEN: {fault}")
    tally.record(tally.Count("twin", passed=int(not faults), failed=int(bool(faults))))
    return 1 if faults else 0


async def serve(checkpoint: Path, workspace: Path, how: dict[str, Any]) -> list[str]:
    """Serve it with these arguments once, and return what was not as promised."""
    found = inspect_checkpoint(checkpoint)
    require_k2(found)
    config = engine_of_preset(checkpoint, "demo", {})
    config = replace(config, server_args={**config.server_args, "dtype": "bfloat16", **how})
    engine = build_supervised(
        config, found, cache=workspace / "cache", runtime=workspace / "runtime", environ=os.environ, warm_up=False
    )
    others = set(psutil.Process().children(recursive=True))
    info = await engine.start()
    try:
        own = set(psutil.Process().children(recursive=True)) - others
        faults = compare(own, how.get("tp_size", 1), info.kv_capacity)
        begun = time.monotonic()
        answers = [await answer(engine, f"{number}") for number in range(2)]
        each = (time.monotonic() - begun) / sum(map(len, answers))
    finally:
        await engine.stop()
    print(f"served {how or 'alone'}: {info.start_seconds:.0f} s to start, {each * 1e3:.0f} ms a token", flush=True)
    if answers[0] != answers[1] or len(answers[0]) != 8:
        faults.append(f"two greedy answers differ: {answers}")
    if (info.vocab_size, info.context_length) != (TWIN.vocabulary, 32_768):
        faults.append(f"the engine says {info}")
    return faults


async def answer(engine: SupervisedEngine, uid: str) -> tuple[int, ...]:
    asked = Generation(uid, PROMPT, {"max_new_tokens": 8, "temperature": 0.0, "ignore_eos": True}, stream=False)
    return tuple([token async for chunk in engine.generate(asked) for token in chunk.ids])


def compare(own: Collection[psutil.Process], ranks: int, tokens: int) -> list[str]:
    """Print what each scheduler holds for the model, and report what the planner did not foresee."""
    placement = Placement(tensor=ranks, cache_bytes=BF16, fraction=0.9, chunk=256, running=64, context=TWIN.context)
    weights, cache = weights_of(placement, planned()).total, placement.token_bytes(planned()) * tokens
    (host,) = named("sglang::host", own)
    faults = []
    for scheduler in named("sglang::scheduler", own):
        held = anonymous(scheduler) - anonymous(host)
        said = f"{held / MIB:.0f} MiB, planned {weights / MIB:.0f} for weights and {cache / MIB:.0f} for the cache"
        print(f"  in memory {said}", flush=True)
        if not 0.97 * (weights + cache) < held < weights + cache + WORKING:
            faults.append(said)
    return faults


def named(title: str, among: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [each for each in among if each.name().startswith(title[:15])]


def anonymous(process: psutil.Process) -> int:
    """The memory of a process that no file backs, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
