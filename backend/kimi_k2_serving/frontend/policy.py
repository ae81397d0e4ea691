"""What a deployment may set: seconds, counts and switches."""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.core.limits import BODY_SECONDS, STALLED_SECONDS


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds, counts and switches that a deployment may set.

    keep_alive: longest silence of a stream; body_seconds: for a request's body to arrive; stalled_seconds: for a client
    to take what was sent; in_flight: requests at once; workers: processes that share a key's concurrency;
    anthropic_temperature: what Anthropic's temperatures are multiplied by.
    """

    keep_alive: float = 15.0
    body_seconds: float = BODY_SECONDS.value
    stalled_seconds: float = STALLED_SECONDS.value
    in_flight: int = 1024
    workers: int = 1
    anthropic_temperature: float = 0.6
