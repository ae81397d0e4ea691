"""An `Engine` that makes up its outputs: at a fixed rate, a token for every running request at each step.

The first token of a request comes at once, so the time to a client's first token is all the server's own. Steps are
never skipped: after a delay as many as are due follow each other, and a request that has not been asked for its output
meanwhile gets its tokens in one chunk, as from SGLang's queue. SCRIPTED_RATE: steps per second; 0: as fast as asked.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import uvloop

CONTEXT = 32_768
CAPACITY = 1_000_000
# Ids of ordinary text; the demo vocabulary's control tokens are above.
TEXT_IDS = range(300, 340)


class Running:
    """One request in the scripted scheduler."""

    def __init__(self, prompt: int, most: int) -> None:
        self.prompt = prompt
        self.most = most
        self.made = 0
        self.waiting = 0
        self.aborted = False
        self.news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.aborted or self.made >= self.most

    def step(self) -> None:
        if not self.over:
            self.made += 1
            self.waiting += 1
        self.news.set()

    def chunk(self) -> dict[str, Any]:
        """What has come since the last chunk."""
        new, self.waiting = self.waiting, 0
        reason = {"type": "abort", "message": "aborted"} if self.aborted else {"type": "length", "length": self.most}
        ids = [TEXT_IDS[(self.made - new + index) % len(TEXT_IDS)] for index in range(new)]
        meta = {
            "finish_reason": reason if self.over else None,
            "prompt_tokens": self.prompt,
            "completion_tokens": self.made,
            "cached_tokens": 0,
        }
        return {"text": " text" * new, "output_ids": ids, "meta_info": meta}


class Engine:
    def __init__(self, **server_args: Any) -> None:
        self.loop = uvloop.new_event_loop()
        self._rate = float(os.environ.get("SCRIPTED_RATE", "50"))
        self._running: dict[str, Running] = {}
        self._steps: asyncio.Task[None] | None = None
        self._state = tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="scripted-")  # noqa: SIM115
        self._scheduler_init_result = SimpleNamespace(
            scheduler_infos=[{"max_req_input_len": CONTEXT, "max_total_num_tokens": CAPACITY}]
        )
        self.tokenizer_manager = SimpleNamespace(
            load_snapshot_reader=SimpleNamespace(path=self._state.name, read_all=self._load),
            abort_request=self._abort,
            context_len=CONTEXT,
            num_reserved_tokens=0,
            model_config=SimpleNamespace(vocab_size=4352),
            server_args=SimpleNamespace(enable_deterministic_inference=False),
        )

    async def async_generate(
        self, input_ids: list[int], sampling_params: dict[str, Any], rid: str, stream: bool = False, **_: Any
    ) -> Any:
        self._running[rid] = running = Running(len(input_ids), int(sampling_params.get("max_new_tokens", 128)))
        if self._steps is None:
            self._steps = asyncio.create_task(self._run())
        running.step()
        chunks = self._chunks(rid, running)
        if stream:
            return chunks
        return [chunk async for chunk in chunks][-1]

    def shutdown(self) -> None:
        self._state.close()

    async def _chunks(self, rid: str, running: Running) -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                await running.news.wait()
                running.news.clear()
                over = running.over
                yield running.chunk()
                if over:
                    return
                if not self._rate:
                    asyncio.get_running_loop().call_soon(running.step)
        finally:
            del self._running[rid]

    async def _run(self) -> None:
        if not self._rate:
            return
        due = time.perf_counter()
        while True:
            due += 1 / self._rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            for running in list(self._running.values()):
                running.step()

    def _abort(self, rid: str) -> None:
        if running := self._running.get(rid):
            running.aborted = True
            running.news.set()

    def _load(self) -> list[Any]:
        return [
            SimpleNamespace(
                timestamp=time.time(),
                num_running_reqs=len(self._running),
                num_waiting_reqs=0,
                num_used_tokens=0,
                token_usage=0.0,
            )
        ]
