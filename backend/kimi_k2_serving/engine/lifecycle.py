"""One request's life as a pure state machine: whatever happens, in whatever order, it ends exactly once.

    WAITING -- admit --> RUNNING -- receive(last chunk) --> ENDED
       `-- interrupt ----------------- interrupt, lose ------^

Each event returns what is to be done about it, in order. Finish and Fail are the endings: there is one of them in all,
and nothing after it. An event that comes too late returns nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.engine.port import Chunk


class Phase(enum.Enum):
    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start the engine's run."""


@dataclass(frozen=True, slots=True)
class StopRun:
    """End the engine's run: nobody wants the rest."""


@dataclass(frozen=True, slots=True)
class SendChunk:
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SendLast:
    """The last chunk goes out, with the final flag."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SendError:
    """The error goes out, with the final flag."""

    error: ServingError


Action = StartRun | StopRun | SendChunk | SendLast | SendError


class Lifecycle:
    def __init__(self) -> None:
        self.phase = Phase.WAITING

    def admit(self) -> list[Action]:
        """There is room for it."""
        if self.phase is not Phase.WAITING:
            return []
        self.phase = Phase.RUNNING
        return [StartRun()]

    def receive(self, chunk: Chunk) -> list[Action]:
        """The engine has sent something."""
        if self.phase is not Phase.RUNNING:
            return []
        if chunk.end is None:
            return [SendChunk(chunk)]
        self.phase = Phase.ENDED
        return [SendLast(chunk)]

    def lose(self, error: ServingError) -> list[Action]:
        """The engine has ended the run with an error: refused, failed or dead. There is nothing left to abort."""
        if self.phase is not Phase.RUNNING:
            return []
        self.phase = Phase.ENDED
        return [SendError(error)]

    def interrupt(self, error: ServingError) -> list[Action]:
        """An end from our side: bad input, overload, cancellation, deadline, a reader that does not read, shutdown."""
        if self.phase is Phase.ENDED:
            return []
        running = self.phase is Phase.RUNNING
        self.phase = Phase.ENDED
        return [StopRun(), SendError(error)] if running else [SendError(error)]
