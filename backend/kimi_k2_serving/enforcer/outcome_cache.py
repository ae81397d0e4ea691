"""A cache of the outcomes of jobs, by digest: bounded in bytes, drops the least recently used. Not thread-safe."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kimi_k2_serving.core.errors import InvalidSchema, LimitExceeded, ServingError
from kimi_k2_serving.grammar.constraint import Constraint

MOST_BYTES: Final = 64 * 2**20
# What 64-bit CPython needs for an entry with its key, its link and its objects.
ENTRY_BYTES: Final = 512
# How long a job that was too slow stays relaxed or refused: later the machine may be less busy.
PASSING_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class RememberedError:
    """An error that is made anew for each request that gets it."""

    kind: type[ServingError]
    detail: str
    field: str = ""

    @classmethod
    def of(cls, error: ServingError) -> RememberedError:
        return cls(type(error), error.detail, error.field)

    def error(self) -> ServingError:
        return self.kind(self.detail, field=self.field)


Outcome = Constraint | RememberedError


class Outcomes:
    """`clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], *, most: int = MOST_BYTES) -> None:
        self.bytes = 0
        self._clock = clock
        self._max_bytes = most
        self._entries: OrderedDict[bytes, tuple[Outcome, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Outcome | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[1]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def add(self, key: bytes, outcome: Outcome, *, passing: bool = False) -> None:
        """`passing`: keep it for PASSING_SECONDS only. An error that is not due to the schema is not kept."""
        size = _size(outcome)
        if size > self._max_bytes or (
            isinstance(outcome, RememberedError) and outcome.kind not in (InvalidSchema, LimitExceeded)
        ):
            return
        self._drop(key)
        until = self._clock() + PASSING_SECONDS if passing else float("inf")
        self._entries[key] = (outcome, until, size)
        self.bytes += size
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry[2]


def _size(outcome: Outcome) -> int:
    if isinstance(outcome, RememberedError):
        return ENTRY_BYTES + len(outcome.detail) + len(outcome.field)
    return ENTRY_BYTES + len(outcome.structural_tag or "") + sum(map(len, outcome.relaxed))
