"""The interface between the frontend and the engine: streams of chunks, and whether the engine is ready.

Implementations: `triton_engine.TritonEngine` (the engine model over gRPC) and the scripted engine of the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from kimi_k2_serving.engine.port import Chunk, Generation


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` explains why the engine is not ready. It is "" if the engine is ready."""

    ready: bool
    reason: str = ""


class EngineClient(Protocol):
    """All methods are called on one event loop."""

    def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """Yield chunks until one has `end`. Closing the iterator ends the generation.

        Raises EngineUnavailable, EngineLost, Overloaded, InvalidRequest's leaves, DeadlineExceeded or Internal.
        """
        ...

    async def health(self) -> Health:
        """Whether the engine is ready. Never raises, and starts no generation."""
        ...

    async def close(self) -> None: ...
