"""Streamed chat through the frontend beside SGLang's own OpenAI server: tokens/s, time to first token, gaps of events.

    scripts/bench frontend [--concurrency 1 16 64] [--rounds 3]       starts both servers on the demo checkpoint
    scripts/bench frontend --url http://127.0.0.1:9000                one that runs already

Both have the same checkpoint, engine arguments and stream interval; both stay up, and rounds alternate between them, so
that whatever else the machine does disturbs both alike. A client of few instructions (raw sockets, JSON for the last
chunk alone): it shares the machine with the servers. The ratio is ours by theirs: above 1 is better for tokens/s, below
1 for times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench import sglang_server
from tests.frontend.running import over
from tests.server.running import running

COLUMNS = ("tokens_per_second", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "prompt_tokens")


@dataclass(slots=True)
class Timing:
    """Seconds; `gaps` are between events after the first with content."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    seconds: float
    timings: list[Timing]


def request(url: str, options: argparse.Namespace, number: int) -> bytes:
    # Each prompt is new, so that no prefix cache helps.
    content = f"{number:06d} " + "count on " * (options.prompt // 2)
    body = json.dumps(
        {
            "model": options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": options.tokens,
            "ignore_eos": True,
            "temperature": 0.6,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    key = f"authorization: Bearer {options.key}\r\n" if options.key else ""
    head = (
        f"POST {urlsplit(url).path}/v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n{key}"
        f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(url: str, options: argparse.Namespace, number: int) -> Timing:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    timing, began, last, usage = Timing(), time.perf_counter(), 0.0, b""
    writer.write(request(url, options, number))
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"the server answered {status.decode().strip()}")
    while line := await reader.readline():
        now = time.perf_counter()
        if b'"content":"' in line and b'"content":""' not in line:
            if last:
                timing.gaps.append(now - last)
            else:
                timing.first = now - began
            last = now
        if b'"usage":{' in line:
            usage = line
    writer.close()
    if not usage:
        raise SystemExit("a stream ended without usage")
    counts = json.loads(usage.strip().removeprefix(b"data: "))["usage"]
    timing.tokens, timing.prompt = counts["completion_tokens"], counts["prompt_tokens"]
    return timing


async def one_round(url: str, options: argparse.Namespace, concurrency: int) -> Round:
    count = max(options.requests, 2 * concurrency)
    numbers = iter(range(options.seed, options.seed + count))
    options.seed += count
    timings: list[Timing] = []

    async def worker() -> None:
        for number in numbers:
            timings.append(await ask(url, options, number))

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return Round(time.perf_counter() - began, timings)


def figures(concurrency: int, rounds: list[Round]) -> dict[str, float]:
    timings = [timing for each in rounds for timing in each.timings]
    firsts = sorted(timing.first for timing in timings)
    gaps = sorted(gap for timing in timings for gap in timing.gaps)
    rates = [sum(timing.tokens for timing in each.timings) / each.seconds for each in rounds]
    return {
        "concurrency": concurrency,
        "requests": len(timings),
        "prompt_tokens": timings[0].prompt,
        "tokens_per_second": round(statistics.median(rates), 1),
        "ttft_p50_ms": milliseconds(firsts, 0.5),
        "ttft_p99_ms": milliseconds(firsts, 0.99),
        "itl_p50_ms": milliseconds(gaps, 0.5),
        "itl_p99_ms": milliseconds(gaps, 0.99),
    }


def milliseconds(ordered: list[float], share: float) -> float:
    return round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 2) if ordered else 0.0


def compare(urls: dict[str, str], options: argparse.Namespace) -> None:
    """A line for each server and level, and one for the ratio where there are two."""
    print(f"{'at once':>7} {'server':16}" + "".join(f"{name.removesuffix('_ms'):>18}" for name in COLUMNS), flush=True)
    for url in urls.values():
        asyncio.run(one_round(url, options, 2))  # warms up
    for concurrency in options.concurrency:
        rounds: dict[str, list[Round]] = {name: [] for name in urls}
        for _ in range(options.rounds):
            for name, url in urls.items():
                rounds[name].append(asyncio.run(one_round(url, options, concurrency)))
        rows = {name: figures(concurrency, each) for name, each in rounds.items()}
        for name, row in rows.items():
            show(concurrency, name, [row[column] for column in COLUMNS])
        if len(rows) == 2:
            ours, theirs = rows.values()
            show(concurrency, "ratio", [round(ours[column] / theirs[column], 2) for column in COLUMNS])


def show(concurrency: int, name: str, values: list[float]) -> None:
    print(f"{concurrency:7} {name:16}" + "".join(f"{value:18}" for value in values), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench frontend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server that runs already, instead of the two")
    parser.add_argument("--model", default="kimi_k2")
    parser.add_argument("--key", default="")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=10, help="a round; never fewer than twice the concurrency")
    parser.add_argument("--prompt", type=int, default=64, help="words, about")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    options = parser.parse_args()
    if options.url:
        compare({"given": options.url}, options)
        return 0
    with running() as server, over(server) as ours, sglang_server.running(Path(server.ready["checkpoint"])) as theirs:
        compare({"frontend": ours, "SGLang's own": theirs}, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
