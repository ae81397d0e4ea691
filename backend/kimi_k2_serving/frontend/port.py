"""What the frontend needs of the engine: generations that end when their iterator is closed, and a truthful state.

Implementations: `triton_engine.TritonEngine` (the engine model over gRPC) and the scripted one of the tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kimi_k2_serving.engine.port import Chunk


@dataclass(frozen=True, slots=True)
class Run:
    """One generation. `sampling` has SGLang's names; `cache_salt` keeps its prefix cache apart from other salts'.

    `top_logprobs`: alternatives per token, None for no log-probabilities at all. `priority`: higher goes first.
    """

    uid: str
    input_ids: Sequence[int]
    sampling: dict[str, Any]
    stream: bool
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` says why it is not ready, for people; "" when it is."""

    ready: bool
    reason: str = ""


class EngineClient(Protocol):
    """Every method is called on one event loop."""

    def generate(self, run: Run) -> AsyncIterator[Chunk]:
        """Chunks until one has `end`; closing the iterator ends the generation.

        Raises EngineUnavailable, EngineLost, Overloaded, InvalidRequest's leaves, DeadlineExceeded or Internal.
        """
        ...

    async def health(self) -> Health:
        """Costs no generation; never raises."""
        ...

    async def close(self) -> None: ...
