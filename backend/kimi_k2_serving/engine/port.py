"""What serving needs of an engine, and nothing more: token ids in, token ids out, abort by uid, a truthful state.

Implementations: `supervised.SupervisedEngine` (SGLang in a process of its own) and `fake.ScriptedEngine` (tests).
A generation ends in one way: its last chunk has `finish`, or the iterator raises one ServingError.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


class EngineState(enum.Enum):
    """READY is the only state in which `generate` is accepted."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class EndReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Measured at start. Lengths and capacities are in tokens, `start_seconds` from spawn to ready.

    context_length: prompt and answer together; prompt_tokens: the longest prompt that is taken; min_p: whether a
    request may ask for it.
    """

    engine: str
    context_length: int
    prompt_tokens: int
    kv_capacity: int
    vocab_size: int
    start_seconds: float
    min_p: bool = True


@dataclass(frozen=True, slots=True)
class Generation:
    """One request. `uid` is ours and unique; `input_ids` are final; `sampling` has SGLang's sampling parameter
    names. Generations share a prefix cache only with those of the same `cache_salt`. `top_logprobs`: alternatives per
    token, None for no log-probabilities at all. `priority`: higher goes first.
    """

    uid: str
    input_ids: Sequence[int]
    sampling: Mapping[str, Any]
    stream: bool
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts so far; `completion` counts every id that was sent, stop tokens included."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """`matched` is the stop string or stop token id that ended a STOP, where the engine says."""

    reason: EndReason
    matched: str | int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one output id, with the `top` alternatives (id, logprob) where asked for."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is new since the last chunk: ids, and their text with special tokens left out."""

    ids: tuple[int, ...]
    text: str
    usage: TokenUsage
    end: End | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=())


def merge_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Consecutive chunks, at least one, as one; linear in what they hold."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        tuple(token for chunk in chunks for token in chunk.ids),
        "".join(chunk.text for chunk in chunks),
        last.usage,
        last.end,
        tuple(each for chunk in chunks for each in chunk.logprobs),
    )


@dataclass(frozen=True, slots=True)
class Load:
    """The scheduler's own state: requests in its batch and in its queue; `kv_usage` is the used share of the KV pool,
    0 to 1, less what may be evicted. `restarts` counts the engine's since its first start.
    """

    running: int = 0
    queued: int = 0
    kv_usage: float = 0.0
    restarts: int = 0


class Engine(Protocol):
    """Every method is called on one event loop."""

    @property
    def state(self) -> EngineState: ...

    @property
    def load(self) -> Load:
        """At most 200 ms old; all zero but `restarts` while the engine is down."""
        ...

    def check(self) -> None:
        """Raises EngineUnavailable, with a time to retry, in any state but READY."""
        ...

    async def start(self) -> EngineInfo:
        """Return when the engine serves. Raises EngineUnavailable if it can't be started."""
        ...

    def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """Chunks until one has `end`. Raises EngineUnavailable, EngineLost, Overloaded, InvalidValue or Internal."""
        ...

    def abort(self, uid: str) -> None:
        """Ask for an early end; the generation still ends by itself, with EndReason.ABORT. Unknown uids are ignored."""
        ...

    async def stop(self) -> None:
        """End everything. Afterwards no process, file or socket of the engine is left."""
        ...
