"""What a long prompt costs, and what it costs the others: seconds to its first token, and a stream's largest gap.

    scripts/bench long_prompt [--tokens 1000 5600 16000 27000] [--json]

Starts a real server. For each length, the engine model answers a new prompt of random ids, first alone and then beside
a stream; after that, a prompt of as many tokens whose prefix is cached but for its last 256. `cpu` is the processor
time of SGLang's scheduler for the prompt alone: on a machine that does other work it says more than the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from tests.server.running import Server, running

VOCABULARY = 4000
NEW_AFTER_CACHED = 256
# Long enough to outlast any prompt; its client leaves when the prompt is answered.
STREAM_TOKENS = 20_000
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    tokens: int
    seconds: float
    cpu_seconds: float
    beside_seconds: float
    largest_gap_seconds: float
    cached_seconds: float


async def events(server: Server, ids: list[int], tokens: int) -> AsyncIterator[float]:
    """The time of each response to one generate_stream; closing the iterator hangs up."""
    body = {"input_ids": ids, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0, "stream": True}
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http)
    head = "POST /v2/models/kimi_k2_engine/generate_stream HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    try:
        async for line in reader:
            if line.startswith(b"data: "):
                part = json.loads(line[6:])
                assert "error" not in part, part
                yield time.perf_counter()
    finally:
        writer.close()


async def answered(server: Server, ids: list[int]) -> float:
    """Seconds until the first token, which is the only one."""
    begin = time.perf_counter()
    times = [moment async for moment in events(server, ids, 1)]
    return times[0] - begin


async def beside(server: Server, ids: list[int], stream_ids: list[int]) -> tuple[float, float]:
    """Seconds until the first token, and the largest gap of a stream that runs meanwhile."""
    seen: list[float] = []

    async def stream() -> None:
        async for moment in events(server, stream_ids, STREAM_TOKENS):
            seen.append(moment)

    task = asyncio.create_task(stream())
    await asyncio.sleep(SETTLE_SECONDS)
    begin = time.perf_counter()
    seconds = await answered(server, ids)
    end = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    moments = [begin, *(moment for moment in seen if begin < moment < end), end]
    return seconds, max(later - earlier for earlier, later in itertools.pairwise(moments))


async def measure(server: Server, tokens: int, draw: random.Random) -> Figure:
    def prompt(count: int) -> list[int]:
        return [draw.randrange(VOCABULARY) for _ in range(count)]

    scheduler = server.named("sglang::scheduler")
    first, before = prompt(tokens), sum(scheduler.cpu_times()[:2])
    seconds = await answered(server, first)
    used = sum(scheduler.cpu_times()[:2]) - before
    beside_seconds, gap = await beside(server, prompt(tokens), prompt(16))
    cached = await answered(server, first[: tokens - NEW_AFTER_CACHED] + prompt(NEW_AFTER_CACHED))
    return Figure(tokens, *(round(each, 2) for each in (seconds, used, beside_seconds, gap, cached)))


def show(figure: Figure) -> None:
    values: list[Any] = list(asdict(figure).values())
    print(f"{values[0]:>8,}" + "".join(f"{value:>14.2f}" for value in values[1:]), flush=True)


async def run(server: Server, options: argparse.Namespace) -> list[Figure]:
    draw = random.Random(options.seed)
    await answered(server, [draw.randrange(VOCABULARY) for _ in range(64)])
    found = []
    for tokens in options.tokens:
        found.append(await measure(server, tokens, draw))
        if not options.json:
            show(found[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench long_prompt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 5600, 16000, 27000], help="lengths of prompts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args()
    if not options.json:
        names = ("tokens", "seconds", "cpu", "beside", "largest gap", "cached")
        print(f"{names[0]:>8}" + "".join(f"{name:>14}" for name in names[1:]), flush=True)
    with running() as server:
        found = asyncio.run(run(server, options))
    if options.json:
        print(json.dumps([asdict(figure) for figure in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
