"""What the frontend needs of the engine: generations that end when their iterator is closed, and a truthful state.

Implementations: `triton_engine.TritonEngine` (the engine model over gRPC) and the scripted one of the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from kimi_k2_serving.engine.port import Chunk, Generation


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` says why it is not ready, for people; "" when it is."""

    ready: bool
    reason: str = ""


class EngineClient(Protocol):
    """Every method is called on one event loop."""

    def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """Chunks until one has `end`; closing the iterator ends the generation.

        Raises EngineUnavailable, EngineLost, Overloaded, InvalidRequest's leaves, DeadlineExceeded or Internal.
        """
        ...

    async def health(self) -> Health:
        """Costs no generation; never raises."""
        ...

    async def close(self) -> None: ...
