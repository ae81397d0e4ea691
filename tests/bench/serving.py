"""Tokens per second through the ensemble and the engine model, beside the bare SGLang engine on the same checkpoint.

    scripts/bench serving [--tokens 64] [--concurrency 1 16] [--json]

Each phase has the machine to itself: first an SGLang `Engine` with the demo preset's arguments in this process, then a
server started by `scripts/serve`. 64 prompt tokens, `ignore_eos`, streaming; the median of three rounds after one to
warm up. The client of the server runs on the same cores, as raw HTTP: its cost is in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine.config import load_preset
from kimi_k2_serving.engine.host import build_engine
from tests.server.running import ROOT, Server, running

PROMPT_TOKENS = 64
ROUNDS = 3
# tokens of one answer and the seconds to its first.
Answered = tuple[int, float]
Ask = Callable[[int], Awaitable[Answered]]


@dataclass(frozen=True, slots=True)
class Figure:
    what: str
    concurrency: int
    tokens_per_second: float
    ttft_ms: float


def prompt(number: int) -> list[int]:
    """Different for every request, so that the prefix cache helps nobody."""
    return [(number * 31 + position * 7) % 4000 for position in range(PROMPT_TOKENS)]


async def measure(what: str, ask: Ask, concurrency: int, numbers: Any) -> Figure:
    rates, firsts = [], []
    for round_number in range(ROUNDS + 1):
        begin = time.perf_counter()
        answers = await asyncio.gather(*[ask(next(numbers)) for _ in range(concurrency)])
        if round_number:
            rates.append(sum(tokens for tokens, _ in answers) / (time.perf_counter() - begin))
            firsts += [first for _, first in answers]
    return Figure(what, concurrency, round(statistics.median(rates)), round(1000 * statistics.median(firsts)))


async def bare(engine: Any, tokens: int, number: int) -> Answered:
    begin, first, count = time.perf_counter(), 0.0, 0
    sampling = {"max_new_tokens": tokens, "ignore_eos": True}
    generator = await engine.async_generate(input_ids=prompt(number), sampling_params=sampling, stream=True)
    async for chunk in generator:
        first = first or time.perf_counter() - begin
        count += len(chunk["output_ids"])
    return count, first


async def streamed(server: Server, model: str, body: dict[str, Any]) -> Answered:
    """One generate_stream over a connection of its own; counts by the usage that the server reports."""
    begin, first = time.perf_counter(), 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http)
    data = json.dumps({**body, "stream": True}).encode()
    writer.write(
        f"POST /v2/models/{model}/generate_stream HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    count = 0
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        first = first or time.perf_counter() - begin
        part = json.loads(line[6:])
        assert "error" not in part, part
        count += part.get("num_output_tokens", 0)
        if "usage" in part:
            count = json.loads(part["usage"])["completion_tokens"]
        if "finish_reason" in part:
            break
    writer.close()
    return count, first


def bare_figures(tokens: int, levels: list[int], checkpoint: Path) -> list[Figure]:
    preset = load_preset("demo", {})
    os.environ.update({"HF_HUB_OFFLINE": "1", **preset.environment})
    engine = build_engine(
        {
            "log_level": "error",
            **preset.server_args,
            "model_path": str(checkpoint),
            "incremental_streaming_output": True,
        }
    )
    numbers = iter(range(1_000_000))

    async def run() -> list[Figure]:
        return [
            await measure("bare SGLang Engine", lambda number: bare(engine, tokens, number), level, numbers)
            for level in levels
        ]

    try:
        return list(engine.loop.run_until_complete(run()))
    finally:
        engine.shutdown()


def server_figures(tokens: int, levels: list[int]) -> list[Figure]:
    numbers = iter(range(1_000_000))
    sampling = {"max_tokens": tokens, "ignore_eos": True, "temperature": 1.0}

    async def run(server: Server) -> list[Figure]:
        figures = []
        for level in levels:
            for model in ("kimi_k2_engine", "kimi_k2"):

                async def ask(number: int, model: str = model) -> Answered:
                    if model == "kimi_k2":
                        given: dict[str, Any] = {"text_input": f"{number} " * (PROMPT_TOKENS // 3)}
                    else:
                        given = {"input_ids": prompt(number), "return_num_output_tokens": True}
                    return await streamed(server, model, {**given, **sampling})

                figures.append(await measure(f"{model}, generate_stream", ask, level, numbers))
        return figures

    with running() as server:
        return asyncio.run(run(server))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench serving", description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16], help="requests at once")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    args = parser.parse_args()
    checkpoint = ROOT / ".cache" / "checkpoints" / "demo"
    figures = server_figures(args.tokens, args.concurrency)
    figures += bare_figures(args.tokens, args.concurrency, checkpoint)
    if args.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
        return 0
    print(f"{'':34} {'at once':>8} {'tok/s':>8} {'TTFT ms':>8}")
    for figure in figures:
        print(f"{figure.what:34} {figure.concurrency:8} {figure.tokens_per_second:8.0f} {figure.ttft_ms:8.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
