"""SGLang's `Engine` without any server: this process drives `async_generate` with the loads that it is given.

`python -m tests.bench.serving.bare_engine ARGUMENTS`, SGLang's server arguments as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests.bench.serving.load import Answer, Load, serve


async def ask(engine: Any, body: dict[str, Any]) -> Answer:
    began, last, first, gaps, tokens, events = time.perf_counter(), 0.0, 0.0, [], 0, 0
    meta: dict[str, Any] = {}
    generator = await engine.async_generate(stream=True, **body)
    async for chunk in generator:
        now, meta = time.perf_counter(), chunk["meta_info"]
        if meta["completion_tokens"] > tokens:
            if events:
                gaps.append(now - last)
            else:
                first = now - began
            last, events, tokens = now, events + 1, meta["completion_tokens"]
    return Answer(first, gaps, tokens, events, meta["prompt_tokens"])


async def ask_all(engine: Any, load: Load) -> list[Answer]:
    waiting = iter(load.requests)
    answers: list[Answer] = []

    async def client() -> None:
        for body in waiting:
            answers.append(await ask(engine, body))

    await asyncio.gather(*(client() for _ in range(load.concurrency)))
    return answers


def main() -> None:
    from sglang.srt.entrypoints.engine import Engine

    engine = Engine(**json.loads(sys.argv[1]))
    serve(lambda load: list(engine.loop.run_until_complete(ask_all(engine, load))))


if __name__ == "__main__":
    main()
