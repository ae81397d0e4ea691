"""How long the engine goes on for a client that has left: from its hang-up to nothing running and nothing queued.

    scripts/bench disconnect [--runs 20] [--json]

Starts a real server. A chat client closes its connection while its request is queued, in prefill, in decode or in a
tool call, streamed or not; the engine's own gauges on Triton's /metrics, asked every 5 ms, say when it is idle again
(they are up to 100 ms old, which is in the figures). `noticed` is when the engine model counts the request as
cancelled.

A chunk of a prefill that the scheduler has begun is worked through to its end, seconds long on a CPU: in that phase
`idle` measures the preset's chunked_prefill_size, and `noticed` what is ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.frontend.running import over
from tests.server.running import running

PROBE_SECONDS = 0.005
GIVE_UP_SECONDS = 30.0
BUSY = ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang_backend:waiting_requests")
# The demo preset's max_running_requests: as many others keep the engine full, so that the next request has to wait.
FULL = 64
TOOL = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {
            "type": "object",
            "properties": {"lines": {"type": "array", "items": {"type": "string", "maxLength": 200}, "minItems": 50}},
            "required": ["lines"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds from the hang-up."""

    phase: str
    stream: bool
    runs: int
    noticed_p50: float
    noticed_p99: float
    idle_p50: float
    idle_p99: float


@dataclass(frozen=True, slots=True)
class State:
    """`busy`: requests that run, are queued in the scheduler, or wait for admission; `cancelled` so far.

    `held` is the share of the KV pool in use. A long prompt in prefill holds some of it and is counted nowhere else.
    """

    busy: int
    cancelled: int
    held: float


class Probe:
    """Triton's /metrics."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = httpx.AsyncClient(timeout=10)

    async def state(self) -> State:
        text = (await self._http.get(self._url)).text
        busy = cancelled = held = 0.0
        for line in text.splitlines():
            if line.startswith(BUSY):
                busy += float(line.rpartition(" ")[2])
            elif line.startswith("sglang:token_usage"):
                held = float(line.rpartition(" ")[2])
            elif line.startswith("sglang_backend:requests") and 'outcome="cancelled"' in line:
                cancelled += float(line.rpartition(" ")[2])
        return State(int(busy), int(cancelled), held)

    async def until(self, condition: Callable[[State], object]) -> float:
        """The moment at which it held; raises TimeoutError."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while True:
                if condition(await self.state()):
                    return time.perf_counter()
                await asyncio.sleep(PROBE_SECONDS)

    async def close(self) -> None:
        await self._http.aclose()


class Client:
    """One chat request over a socket of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def ask(cls, url: str, **body: Any) -> Client:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        data = json.dumps({"model": "kimi_k2", "ignore_eos": True, **body}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        await writer.drain()
        return cls(reader, writer)

    async def wait_for(self, piece: bytes, times: int) -> None:
        """Until that many lines of the stream have held `piece`."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while times:
                line = await self._reader.readline()
                assert line, "the stream ended"
                times -= piece in line

    def leave(self) -> float:
        now = time.perf_counter()
        self._writer.transport.abort()
        return now


Left = Callable[[str, Probe, bool, int], Awaitable[float]]


async def under_way(client: Client, probe: Probe, mark: bytes | None, number: int, seconds: float) -> None:
    """A little further each time: some deltas with `mark`, or `seconds` after the engine has begun a whole answer."""
    if mark is not None:
        await client.wait_for(mark, 3 + number % 5)
    else:
        await probe.until(lambda state: state.busy > 0)
        await asyncio.sleep(seconds + 0.02 * (number % 5))


async def in_decode(url: str, probe: Probe, stream: bool, number: int) -> float:
    client = await Client.ask(url, messages=user(f"{number} go on"), stream=stream, max_tokens=20_000)
    await under_way(client, probe, b'"content":' if stream else None, number, 0.1)
    return client.leave()


async def in_tool_call(url: str, probe: Probe, stream: bool, number: int) -> float:
    client = await Client.ask(
        url,
        messages=user(f"{number} write"),
        stream=stream,
        max_tokens=20_000,
        ignore_eos=False,
        tools=[TOOL],
        tool_choice="required",
    )
    await under_way(client, probe, b'"arguments":' if stream else None, number, 0.2)
    return client.leave()


async def in_prefill(url: str, probe: Probe, stream: bool, number: int) -> float:
    """20,000 tokens and more: several seconds here, in chunks of the preset's chunked_prefill_size."""
    text = f"{number} " + "count on " * 10_000
    client = await Client.ask(url, messages=user(text), stream=stream, max_tokens=100)
    await probe.until(lambda state: state.held > 0)
    await asyncio.sleep(0.05 * (number % 5))
    return client.leave()


async def queued(url: str, probe: Probe, stream: bool, number: int) -> float:
    """The engine is full of others' requests, which are no part of what is counted: see `measure`."""
    client = await Client.ask(url, messages=user(f"{number} wait"), stream=stream, max_tokens=20_000)
    await probe.until(lambda state: state.busy > FULL)
    return client.leave()


PHASES: dict[str, Left] = {"queued": queued, "prefill": in_prefill, "decode": in_decode, "tool call": in_tool_call}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def measure(url: str, probe: Probe, phase: str, stream: bool, runs: int) -> Row:
    others = [
        await Client.ask(url, messages=user(f"other {number}"), stream=True, max_tokens=30_000)
        for number in range(FULL if phase == "queued" else 0)
    ]
    await probe.until(lambda state: state.busy == len(others))
    noticed, idle = [], []
    for number in range(runs):
        before = (await probe.state()).cancelled
        left = await PHASES[phase](url, probe, stream, number)
        seen = asyncio.create_task(probe.until(lambda state, before=before: state.cancelled > before))  # type: ignore[misc]
        idle.append(await probe.until(lambda state: state.busy <= len(others) and (others or not state.held)) - left)
        noticed.append(await seen - left)
    for other in others:
        other.leave()
    await probe.until(lambda state: state.busy == 0 and not state.held)
    return Row(phase, stream, runs, *percentiles(noticed), *percentiles(idle))


def percentiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return tuple(round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) for share in (0.5, 0.99))  # type: ignore[return-value]


async def rows(url: str, metrics: str, options: argparse.Namespace) -> list[Row]:
    probe = Probe(metrics)
    found = []
    try:
        for phase in options.phases:
            for stream in (True, False):
                found.append(row := await measure(url, probe, phase, stream, options.runs))
                if not options.json:
                    show(row)
    finally:
        await probe.close()
    return found


def show(row: Row) -> None:
    how = "streamed" if row.stream else "whole"
    print(
        f"{row.phase:10} {how:9} {row.runs:5} {row.noticed_p50:10.0f} {row.noticed_p99:10.0f}"
        f" {row.idle_p50:10.0f} {row.idle_p99:10.0f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench disconnect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="per row (%(default)s)")
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES), metavar="PHASE")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args()
    if not options.json:
        print(f"{'left in':10} {'':9} {'runs':>5} {'noticed p50':>10} {'p99':>10} {'idle p50':>10} {'p99':>10}   (ms)")
    with running() as server, over(server) as url:
        found = asyncio.run(rows(url, f"http://127.0.0.1:{server.metrics}/metrics", options))
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
