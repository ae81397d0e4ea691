"""Streamed chat against any server of OpenAI's API: tokens per second, time to first token, gaps between events.

    python -m tests.bench.frontend --url http://127.0.0.1:9000 --concurrency 1 16 64

A client of few instructions (raw sockets, JSON for the last chunk alone): it shares the machine with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Timing:
    """Seconds; `gaps` are between events after the first with content."""

    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0


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
    timing.tokens = json.loads(usage.strip().removeprefix(b"data: "))["usage"]["completion_tokens"]
    return timing


async def measure(url: str, options: argparse.Namespace, concurrency: int) -> dict[str, float]:
    numbers = iter(range(options.seed, options.seed + max(options.requests, 2 * concurrency)))
    timings: list[Timing] = []

    async def worker() -> None:
        for number in numbers:
            timings.append(await ask(url, options, number))

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - began
    options.seed += len(timings)
    firsts = sorted(timing.first for timing in timings)
    gaps = sorted(gap for timing in timings for gap in timing.gaps)
    return {
        "concurrency": concurrency,
        "requests": len(timings),
        "tokens_per_second": round(sum(timing.tokens for timing in timings) / seconds, 1),
        "ttft_p50_ms": milliseconds(firsts, 0.5),
        "ttft_p99_ms": milliseconds(firsts, 0.99),
        "itl_p50_ms": milliseconds(gaps, 0.5),
        "itl_p99_ms": milliseconds(gaps, 0.99),
    }


def milliseconds(ordered: list[float], share: float) -> float:
    return round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 2) if ordered else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:9000")
    parser.add_argument("--model", default="kimi_k2")
    parser.add_argument("--key", default="")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--requests", type=int, default=20, help="at least; never fewer than twice the concurrency")
    parser.add_argument("--prompt", type=int, default=64, help="words, about")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    options = parser.parse_args()
    asyncio.run(measure(options.url, options, 2))  # warms up
    for concurrency in options.concurrency:
        print(json.dumps(asyncio.run(measure(options.url, options, concurrency))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
