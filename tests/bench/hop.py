"""What the supervised process costs: tokens per second of SGLang embedded, and behind the supervisor, in turn.

`python -m tests.bench.hop CHECKPOINT [--rounds N]`, alternating so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine import build
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.engine.config import EngineConfig, load_engine_config
from kimi_k2_serving.engine.port import Generation

ROOT = Path(__file__).parents[2]
PROMPT, ANSWER = 64, 64
Run = Callable[[int, list[int]], AsyncIterator[int]]


async def tokens_per_second(run: Run, width: int, requests: int) -> float:
    """`requests` generations, `width` at a time."""
    numbers = iter(range(requests))
    begin, count = time.perf_counter(), 0

    async def client() -> None:
        nonlocal count
        for number in numbers:
            async for new in run(number, [(31 * number + k) % 4000 for k in range(PROMPT)]):
                count += new

    await asyncio.gather(*(client() for _ in range(width)))
    return count / (time.perf_counter() - begin)


def embedded(engine: Any) -> Run:
    async def run(number: int, ids: list[int]) -> AsyncIterator[int]:
        sampling = {"max_new_tokens": ANSWER, "ignore_eos": True}
        sent = 0
        async for raw in await engine.async_generate(input_ids=ids, sampling_params=sampling, stream=True):
            total = raw["meta_info"]["completion_tokens"]
            yield total - sent
            sent = total

    return run


def supervised(engine: build.SupervisedEngine) -> Run:
    async def run(number: int, ids: list[int]) -> AsyncIterator[int]:
        sampling = {"max_new_tokens": ANSWER, "ignore_eos": True}
        async for chunk in engine.generate(Generation(f"{time.monotonic_ns()}", ids, sampling, stream=True)):
            yield len(chunk.ids)

    return run


def report(name: str, width: int, rates: list[float]) -> None:
    spread = f"{min(rates):.0f} to {max(rates):.0f}"
    print(f"| {name} | {width} | {statistics.median(rates):.0f} tok/s | {spread} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()
    environ = {**os.environ, "KIMI_K2_CHECKPOINT": str(options.checkpoint)}
    config = load_engine_config(ROOT / "model_repository/kimi_k2_engine/1/engine.yaml", environ)
    os.environ.update(config.preset.environment)
    measure(config, environ, options)


def measure(config: EngineConfig, environ: dict[str, str], options: argparse.Namespace) -> None:
    from sglang.srt.entrypoints.engine import Engine

    checkpoint = inspect_checkpoint(config.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        inside = Engine(**build.server_args(config, checkpoint, cache))
        behind = build.build_supervised(config, checkpoint, cache=cache, runtime=Path(folder) / "run", environ=environ)
        try:
            inside.loop.run_until_complete(compare(embedded(inside), behind, options))
        finally:
            inside.shutdown()


async def compare(inside: Run, behind: build.SupervisedEngine, options: argparse.Namespace) -> None:
    await behind.start()
    try:
        runs: dict[str, tuple[Run, list[float]]] = {"embedded": (inside, []), "supervised": (supervised(behind), [])}
        for number in range(options.rounds + 1):
            for run, rates in runs.values():
                rate: Awaitable[float] = tokens_per_second(run, options.width, options.width * 4)
                if number:
                    rates.append(await rate)
                else:
                    await rate
        print("| engine | concurrent | median | range |\n|---|---|---|---|")
        for name, (_, rates) in runs.items():
            report(name, options.width, rates)
    finally:
        await behind.stop()


if __name__ == "__main__":
    main()
