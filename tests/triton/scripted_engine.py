"""An engine that follows a script: the first id of a generation's prompt chooses its script.

It implements the engine port without a process, and takes only the time that the script waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from kimi_k2_serving.core.errors import EngineUnavailable, ServingError
from kimi_k2_serving.engine.port import Chunk, End, EndReason, EngineInfo, EngineState, Generation, Load, TokenUsage


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


Step = Chunk | Wait | ServingError


class ScriptedEngine:
    """`scripts` by first prompt id. A script ends with a chunk that has `end`, or with an error."""

    def __init__(self, scripts: Mapping[int, Sequence[Step]], *, context_length: int = 1000) -> None:
        self._scripts = scripts
        self._context_length = context_length
        self._aborted: dict[str, asyncio.Event] = {}
        self.state = EngineState.STOPPED
        self.generations: list[Generation] = []

    def check(self) -> None:
        if self.state is not EngineState.READY:
            raise EngineUnavailable("the scripted engine is down")

    async def start(self) -> EngineInfo:
        self.state = EngineState.READY
        return EngineInfo("scripted", self._context_length, self._context_length - 1, self._context_length, 5000, 0.0)

    async def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        self.check()
        self.generations.append(generation)
        aborted = self._aborted[generation.uid] = asyncio.Event()
        try:
            for step in self._scripts[generation.input_ids[0]]:
                if aborted.is_set():
                    yield Chunk((), "", TokenUsage(), End(EndReason.ABORT))
                    return
                match step:
                    case Chunk():
                        yield step
                    case Wait(seconds):
                        await wait(aborted, seconds)
                    case ServingError():
                        raise step
        finally:
            del self._aborted[generation.uid]

    def abort(self, uid: str) -> None:
        if uid in self._aborted:
            self._aborted[uid].set()

    async def stop(self) -> None:
        self.state = EngineState.STOPPED

    @property
    def in_flight(self) -> int:
        return len(self._aborted)

    @property
    def load(self) -> Load:
        return Load(running=self.in_flight)


async def wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
