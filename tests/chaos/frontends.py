"""A frontend that is killed, or stopped for longer than the engine waits for it, beside another frontend.

Both read their ids from the engine's socket. The other one's clients may notice nothing, and nothing of the first one's
may be left in the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil

from tests.chaos import inspect_server as inspecting
from tests.chaos.load import WHOLE
from tests.chaos.row import Row, quantiles
from tests.frontend.running import another
from tests.server.running import Server

CHAT = "/v1/chat/completions"
# Streams of the lost frontend, and how many are under way at once on the other.
LOST, BESIDE = 8, 4
# `slow_reader_seconds` of the demo preset; and how much later its generations may end.
PATIENCE_SECONDS, LATE_SECONDS = 30.0, 10.0
# The largest gap of a stream on two cores that run all of this.
GAP_SECONDS = 1.0
LOSSES = (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))


async def lose_a_frontend(server: Server, how: str, number: signal.Signals, *, slack: float) -> Row:
    """Until its generations have ended, the clients of the other frontend are watched."""
    with another(server) as (kept, _), lost(server) as (url, process):
        before = inspecting.look(server)
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as http:
            ours = [asyncio.create_task(stream(http, url, 4000, gaps=[])) for _ in range(LOST)]
            await inspecting.until(lambda: running(server) == LOST, 30)
            beside = Beside(http, kept)
            async with beside:
                moment = time.monotonic()
                process.send_signal(number)
                patience = PATIENCE_SECONDS if number is signal.SIGSTOP else 0.0
                await inspecting.until(lambda: running(server) <= BESIDE, patience + LATE_SECONDS * slack)
                ended = time.monotonic() - moment
            process.send_signal(signal.SIGCONT)
            endings = Counter(await asyncio.gather(*ours))
        await inspecting.idle(server)
        after = await inspecting.settled(server, before)
    row = Row(
        name(how),
        1,
        beside.endings,
        f"its {LOST} generations ended after {ended:.1f} s; the other one's gaps: {quantiles(beside.gaps)}",
        leaks=after.leaks_since(before),
    )
    row.expect(beside.endings[WHOLE] > 0 and set(beside.endings) == {WHOLE}, "the other one's answers must be whole")
    row.expect(max(beside.gaps) <= GAP_SECONDS * slack, "the other one's streams must go on")
    row.expect(WHOLE not in endings, "the lost one's clients must be told")
    row.expect(ended >= patience * 0.9, "it must have its time to read on")
    row.expect(after.memory - before.memory < 100, "memory must stay flat")
    return row


def name(how: str) -> str:
    return f"a frontend of two is {how}"


@contextlib.contextmanager
def lost(server: Server) -> Iterator[tuple[str, psutil.Process]]:
    with another(server) as (url, process):
        try:
            yield url, process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


class Beside:
    """A closed loop of short streams, while it is entered."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url
        self._over = False
        self._clients: list[asyncio.Task[None]] = []
        self.gaps: list[float] = []
        self.endings: Counter[str] = Counter()

    async def __aenter__(self) -> None:
        self._clients = [asyncio.create_task(self._client()) for _ in range(BESIDE)]
        await asyncio.sleep(1)

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._clients)

    async def _client(self) -> None:
        while not self._over:
            self.endings[await stream(self._http, self._url, 60, gaps=self.gaps)] += 1


async def stream(http: httpx.AsyncClient, url: str, tokens: int, *, gaps: list[float]) -> str:
    """WHOLE, or why the answer is not. `gaps` gets the times between its events."""
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Say something."}], "stream": True}
    # With log-probabilities an event is large enough for a stopped reader to fall behind.
    body |= {"max_tokens": tokens, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    done, last = False, time.monotonic()
    try:
        async with http.stream("POST", f"{url}{CHAT}", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    gaps.append(time.monotonic() - last)
                    last, done = time.monotonic(), line == "data: [DONE]"
                    # Words of an answer may be anything, so look at the event's own keys.
                    if not done and "error" in json.loads(line.removeprefix("data: ")):
                        return "error"
    except httpx.TransportError:
        return "cut off"
    return WHOLE if done else "cut off"


def running(server: Server) -> float:
    """The requests in the scheduler's batch."""
    return inspecting.metrics(server)["sglang:num_running_reqs"]
