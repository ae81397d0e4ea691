"""The interface through which an engine is served: token ids in, token ids out, abort by uid, the engine's state.

The implementation is `supervisor.SupervisedEngine`, SGLang in its own process; tests use a scripted one. A generation
ends once: its last chunk has `end`, or the iterator raises one ServingError.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kimi_k2_serving.engine.totals import Totals


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
    """Facts known once the engine has started. Lengths and capacities are in tokens.

    context_length: the limit of prompt and answer together; prompt_tokens: the longest prompt that the engine accepts;
    start_seconds: from spawn to ready; min_p: whether requests may use this sampling parameter.
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
    """One request. `uid` is unique among those in flight. `input_ids` are the whole prompt. `sampling` uses SGLang's
    parameter names. `stream` is for the frontend, whose client sends it to the engine model; SupervisedEngine always
    yields chunks. `top_logprobs`: number of alternatives per token, None for no log-probabilities. `priority`: higher
    goes first. Generations share the prefix cache only with those of the same `cache_salt`. `text`: whether chunks need
    their text. `reader`: the claim of a process on this machine that reads the ids itself, "" for none (see
    `token_socket`). With a reader, only the last chunk comes, without ids; its usage counts them. `prompt_logprobs`:
    whether log-probabilities of the prompt come, too, which needs `top_logprobs`. `trace`: the W3C traceparent, "" for
    none. `adapter`: the LoRA adapter's name, "" for none. `relayed`: whether a process on this machine may ask for the
    ids while the generation runs. If one does, a chunk with `relayed` comes, and after it only the last chunk.
    """

    uid: str
    input_ids: Sequence[int]
    sampling: Mapping[str, Any]
    stream: bool
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None
    text: bool = True
    reader: str = ""
    prompt_logprobs: bool = False
    trace: str = ""
    adapter: str = ""
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Token counts so far; `completion` counts every output id, including stop tokens."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """`matched` is the stop string or stop token id that caused a STOP, if the engine reports it."""

    reason: EndReason
    matched: str | int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of one output id, and the requested alternatives `top` as (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The output since the last chunk: ids, and their text without special tokens. `prompt_logprobs`: those of the
    whole prompt except its first token, if they were requested and came with this chunk. `choice`: the number of the
    answer that this chunk belongs to. `others`: whether some other choice has not ended yet. `relayed`: whether all
    ids after this chunk go to a process that has asked for them.
    """

    ids: tuple[int, ...]
    text: str
    usage: TokenUsage
    end: End | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=())
    prompt_logprobs: tuple[TokenLogprob, ...] = field(default=())
    choice: int = 0
    others: bool = False
    relayed: bool = False

    @property
    def last(self) -> bool:
        """Whether the whole request has ended with this chunk, and not only its choice."""
        return self.end is not None and not self.others


def merge_chunks(chunks: Sequence[Chunk]) -> Chunk:
    """Merge one or more consecutive chunks of one choice into one. Only the last may have `relayed`. Takes time linear
    in their size.
    """
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        tuple(token for chunk in chunks for token in chunk.ids),
        "".join(chunk.text for chunk in chunks),
        # The engine may give the number of cached tokens with one chunk only.
        replace(last.usage, cached=max(chunk.usage.cached for chunk in chunks)),
        last.end,
        tuple(each for chunk in chunks for each in chunk.logprobs),
        tuple(each for chunk in chunks for each in chunk.prompt_logprobs),
        last.choice,
        last.others,
        last.relayed,
    )


def merge_choices(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Merge the chunks of each choice into one. The choice of the last chunk comes last. A chunk with `relayed` is the
    last of one: what comes after it is for whom it has told.
    """
    if len(chunks) == 1:
        return [chunks[0]]
    for after, chunk in enumerate(chunks[:-1], 1):
        if chunk.relayed:
            return [*merge_choices(chunks[:after]), *merge_choices(chunks[after:])]
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        found.setdefault(chunk.choice, []).append(chunk)
    found[chunks[-1].choice] = found.pop(chunks[-1].choice)
    return [merge_chunks(each) for each in found.values()]


@dataclass(frozen=True, slots=True)
class Load:
    """The scheduler's state. `running`: requests in its batch; `queued`: requests in its queue. `kv_usage`: the share
    of the KV pool in use, 0 to 1, without entries that may be evicted. `kv_used` and `kv_capacity`: the same in tokens.
    `restarts`: how often the engine was restarted. `totals`: what it has done, over all restarts.
    """

    running: int = 0
    queued: int = 0
    kv_usage: float = 0.0
    restarts: int = 0
    kv_used: int = 0
    kv_capacity: int = 0
    totals: Totals = field(default_factory=Totals)


class Engine(Protocol):
    """Every method is called on one event loop."""

    @property
    def state(self) -> EngineState: ...

    @property
    def load(self) -> Load:
        """At most 200 ms old; all values except `restarts` and `totals` are 0 while the engine is down."""
        ...

    def check(self) -> None:
        """Raise EngineUnavailable, with a time to retry, unless the state is READY."""
        ...

    async def start(self) -> EngineInfo:
        """Return when the engine serves. Raises EngineUnavailable if it can't be started."""
        ...

    def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        """Yield chunks; the last has `end`. Raises EngineUnavailable, EngineLost, RequestQuarantined, Overloaded,
        InvalidValue or Internal.
        """
        ...

    def abort(self, uid: str) -> None:
        """Request an early end: the generation then ends with EndReason.ABORT. Unknown uids are ignored."""
        ...

    async def stop(self) -> None:
        """Stop the engine. Afterwards no process, file or socket of it is left."""
        ...
