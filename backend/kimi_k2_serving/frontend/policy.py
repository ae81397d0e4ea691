"""Timeouts and limits that a deployment may set."""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.core.limits import BODY_SECONDS, STALLED_SECONDS


@dataclass(frozen=True, slots=True)
class Policy:
    """keep_alive: maximum seconds of silence in a stream; body_seconds: timeout for a request's body; stalled_seconds:
    timeout for a client to accept what was sent; in_flight: maximum of concurrent requests, per worker; workers:
    processes that share a key's `concurrency`; anthropic_temperature: factor on the temperatures of Anthropic requests.
    """

    keep_alive: float = 15.0
    body_seconds: float = BODY_SECONDS.value
    stalled_seconds: float = STALLED_SECONDS.value
    in_flight: int = 1024
    workers: int = 1
    anthropic_temperature: float = 0.6
