"""One request from its arrival to its ending, as the service keeps it, and the question whether its client has left."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import triton_python_backend_utils as pb_utils

from kimi_k2_serving.engine.lifecycle import Lifecycle, Phase
from kimi_k2_serving.triton.engine.outbox import Outbox
from kimi_k2_serving.triton.engine.request import Job


@dataclass(slots=True, eq=False)
class RequestInFlight:
    """Times are the loop's, which are time.monotonic()'s."""

    outbox: Outbox
    ticket: int
    arrived: float
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    job: Job | None = None
    run: asyncio.Task[None] | None = None
    deadline: float = math.inf
    next_heartbeat: float = math.inf

    @property
    def live(self) -> bool:
        return self.lifecycle.phase is not Phase.ENDED


def ask(flights: Sequence[RequestInFlight], found: Callable[[RequestInFlight], None]) -> None:
    """On a worker thread. Asking about a request that has just ended may fail, and does not matter."""
    for flight in flights:
        try:
            if flight.outbox.cancelled():
                found(flight)
        except Exception as error:
            pb_utils.Logger.log_error(f"could not ask for a cancellation: {type(error).__name__}: {error}")
