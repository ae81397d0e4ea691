"""Generates several answers to one prompt. Each is a generation of its own; their chunks come in the order of arrival.

Choice i has the seed of the request plus i. The first error ends all of them. Closing the iterator ends them, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.engine.port import Chunk, Engine, Generation


def generate_choices(engine: Engine, generation: Generation, n: int) -> AsyncIterator[Chunk]:
    """Yield the chunks of `n` choices. Only the very last chunk has `last`: that of the choice that ends last."""
    if n == 1:
        return engine.generate(generation)
    return _together(engine, [choice_of(generation, number) for number in range(n)])


def uid_of(uid: str, number: int) -> str:
    """The uid of one of several choices. It has a space, which no client's uid has."""
    return f"{uid} {number}"


def uids_of(uid: str, n: int) -> list[str]:
    """The engine's uids of a request. If `uid` is already the uid of a choice, only that one."""
    return [uid] if n == 1 or " " in uid else [uid_of(uid, number) for number in range(n)]


def choice_of(generation: Generation, number: int) -> Generation:
    sampling = dict(generation.sampling)
    if "sampling_seed" in sampling:
        # Seeds have 63 bits and wrap around.
        sampling["sampling_seed"] = (sampling["sampling_seed"] + number) % 2**63
    return replace(generation, uid=uid_of(generation.uid, number), sampling=sampling)


async def _together(engine: Engine, generations: list[Generation]) -> AsyncIterator[Chunk]:
    inbox: asyncio.Queue[Chunk | Exception] = asyncio.Queue()

    async def pump(number: int, generation: Generation) -> None:
        ended = False
        try:
            async with aclosing(engine.generate(generation)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    ended = chunk.end is not None
                    inbox.put_nowait(replace(chunk, choice=number))
        except Exception as error:
            inbox.put_nowait(error)
            return
        if not ended:
            inbox.put_nowait(EngineLost("the answer broke off before its end; send the request again"))

    tasks = [asyncio.create_task(pump(number, each)) for number, each in enumerate(generations)]
    left = len(tasks)
    try:
        while left:
            match await inbox.get():
                case Chunk() as chunk:
                    left -= chunk.end is not None
                    yield replace(chunk, others=left > 0)
                case error:
                    raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
