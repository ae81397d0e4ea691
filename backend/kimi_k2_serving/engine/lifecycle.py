"""One request's life as a pure state machine: it ends exactly once, for every sequence of events.

    WAITING -- admit --> RUNNING -- receive(last chunk) --> ENDED
       `-- interrupt ----------------- interrupt, lose ------^

Each event returns the actions to take, in order. SendLast and SendError end the request: exactly one of them is
returned, and no action after it. An event after the end returns no actions.
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
    """Abort the engine's run."""


@dataclass(frozen=True, slots=True)
class SendChunk:
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SendLast:
    """Send the last chunk with the final flag."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SendError:
    """Send the error with the final flag."""

    error: ServingError


Action = StartRun | StopRun | SendChunk | SendLast | SendError


class Lifecycle:
    def __init__(self) -> None:
        self.phase = Phase.WAITING

    def admit(self) -> list[Action]:
        """Admission has granted the request."""
        if self.phase is not Phase.WAITING:
            return []
        self.phase = Phase.RUNNING
        return [StartRun()]

    def receive(self, chunk: Chunk) -> list[Action]:
        """The engine has produced a chunk."""
        if self.phase is not Phase.RUNNING:
            return []
        if not chunk.last:
            return [SendChunk(chunk)]
        self.phase = Phase.ENDED
        return [SendLast(chunk)]

    def lose(self, error: ServingError) -> list[Action]:
        """The engine has ended the run with an error, so no run is left to stop."""
        if self.phase is not Phase.RUNNING:
            return []
        self.phase = Phase.ENDED
        return [SendError(error)]

    def interrupt(self, error: ServingError) -> list[Action]:
        """The backend ends the request: bad input, overload, cancellation, deadline, stalled client or shutdown."""
        if self.phase is Phase.ENDED:
            return []
        running = self.phase is Phase.RUNNING
        self.phase = Phase.ENDED
        return [StopRun(), SendError(error)] if running else [SendError(error)]
