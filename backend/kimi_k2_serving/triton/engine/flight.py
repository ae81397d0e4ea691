"""The service's record of one request from arrival to end, and the poll for cancellations."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kimi_k2_serving.engine.lifecycle import Lifecycle, Phase
from kimi_k2_serving.engine.port import Chunk
from kimi_k2_serving.triton import journal
from kimi_k2_serving.triton.engine.outbox import Outbox
from kimi_k2_serving.triton.engine.request import Job

# One turn of the poll asks Triton about at most this many running requests.
ASKS = 10
# Triton is asked about running requests at this rate per second. The rate is higher if a request would otherwise wait
# longer than the first of these times. A request whose frontend reads the ids itself always waits for the second.
ASK_RATE = 60
RUNNING_SECONDS, READER_SECONDS = 0.25, 1.0
# A relayed request gets an empty response this often. Inside an ensemble Triton tells only postprocess that the client
# has left, and only with a response that comes after that.
RELAYED_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class RequestInFlight:
    """Times are those of the loop, which uses time.monotonic()."""

    outbox: Outbox
    ticket: int
    arrived: float
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    job: Job | None = None
    # An empty request, which asks whether the engine works. The metrics count it apart.
    is_probe: bool = False
    # Whether postprocess reads the ids itself.
    relayed: bool = False
    run: asyncio.Task[None] | None = None
    deadline: float = math.inf
    next_heartbeat: float = math.inf
    # When Triton was last asked whether its client is gone.
    asked: float = -math.inf

    @property
    def reader(self) -> bool:
        """Whether a process on this machine reads the ids itself."""
        return self.relayed or (self.job is not None and bool(self.job.generation.reader))

    @property
    def choices(self) -> int:
        return 1 if self.job is None else self.job.n

    @property
    def heartbeat(self) -> float | None:
        """Seconds, or None for no heartbeats."""
        if self.relayed:
            return RELAYED_SECONDS
        return None if self.job is None else self.job.heartbeat

    def put(self, chunk: Chunk) -> None:
        self.relayed = self.relayed or chunk.relayed
        self.outbox.put(chunk)

    @property
    def live(self) -> bool:
        return self.lifecycle.phase is not Phase.ENDED


def due(flights: Iterable[RequestInFlight], now: float) -> list[RequestInFlight]:
    """The requests to ask Triton about now: all waiting ones, and at most ASKS of the running ones, in turn.

    Each question takes both processes about 0.1 ms, in which they handle no tokens. While requests wait for admission,
    Triton is asked about the running ones as often as possible. A frontend that reads the ids itself also reports when
    its client leaves.
    """
    live = [flight for flight in flights if flight.live and flight.outbox.stalled_seconds() < 1]
    found = [flight for flight in live if flight.lifecycle.phase is Phase.WAITING]
    running = [flight for flight in live if flight.lifecycle.phase is Phase.RUNNING]
    interval = min(len(running) / ASK_RATE, RUNNING_SECONDS)
    overdue = [
        flight for flight in running if found or now - flight.asked >= (READER_SECONDS if flight.reader else interval)
    ]
    found += heapq.nsmallest(ASKS, overdue, key=lambda flight: flight.asked)
    for flight in found:
        flight.asked = now
    return found


def ask(flights: Sequence[RequestInFlight], found: Callable[[RequestInFlight], None]) -> None:
    """Call `found` for each flight whose client is gone. Runs on a worker thread. A failure is only logged: the request
    may just have ended.
    """
    for flight in flights:
        try:
            if flight.outbox.cancelled():
                found(flight)
        except Exception as error:
            journal.error(f"polling for a cancellation failed: {type(error).__name__}: {error}")
