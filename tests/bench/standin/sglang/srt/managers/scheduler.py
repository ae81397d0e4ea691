"""Makes up the outputs: a token for every running request at each step, `rate` steps per second.

The first token of a request comes at once, so the time to a client's first token is all the server's own. Steps are
never skipped: after a delay, as many as are due follow each other.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.io_struct import BatchTokenIDOutput

CONTEXT = 32_768
CAPACITY = 1_000_000
# Ids of ordinary text in the demo vocabulary.
TEXT_IDS = range(300, 340)


@dataclass(slots=True)
class Running:
    prompt: int
    most: int
    made: int = 0
    aborted: bool = False


class Scheduler:
    def __init__(self, output: Callable[[BatchTokenIDOutput], Awaitable[None]], *, rate: float) -> None:
        self._output = output
        self._rate = rate
        self._running: dict[str, Running] = {}
        self._new: list[str] = []
        self._steps: asyncio.Task[None] | None = None

    def begin(self, rid: str, prompt: int, most: int) -> None:
        self._running[rid] = Running(prompt, most)
        self._new.append(rid)
        if self._steps is None:
            self._steps = asyncio.create_task(self._run())
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._first()))

    def abort(self, rid: str) -> None:
        if rid in self._running:
            self._running[rid].aborted = True

    def load(self) -> list[Any]:
        return [
            SimpleNamespace(
                timestamp=time.time(),
                num_running_reqs=len(self._running),
                num_waiting_reqs=0,
                num_used_tokens=0,
                token_usage=0.0,
                max_total_num_tokens=CAPACITY,
            )
        ]

    async def _first(self) -> None:
        new, self._new = self._new, []
        if new:
            await self._step(new)

    async def _run(self) -> None:
        due = time.perf_counter()
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            begun = [rid for rid, running in self._running.items() if running.made]
            if begun:
                await self._step(begun)

    async def _step(self, rids: Iterable[str]) -> None:
        batch = BatchTokenIDOutput()
        for rid in rids:
            running = self._running[rid]
            ids = array("i", () if running.aborted else (TEXT_IDS[running.made % len(TEXT_IDS)],))
            running.made += len(ids)
            finish = None
            if running.aborted:
                finish = {"type": "abort", "message": "aborted"}
            elif running.made >= running.most:
                finish = {"type": "length", "length": running.most}
            batch.add(rid, ids, running.made, running.prompt, finish)
            if finish is not None:
                del self._running[rid]
        await self._output(batch)
