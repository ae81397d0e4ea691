"""The service's record of one request from arrival to end, and the poll for cancellations."""

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
    """Times are those of the loop, which uses time.monotonic()."""

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
    """Call `found` for each flight whose client is gone. Runs on a worker thread. A failure is only logged: the request
    may just have ended.
    """
    for flight in flights:
        try:
            if flight.outbox.cancelled():
                found(flight)
        except Exception as error:
            pb_utils.Logger.log_error(f"polling for a cancellation failed: {type(error).__name__}: {error}")
