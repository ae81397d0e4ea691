"""Admission to the engine: which requests run now, wait in the queue, or are refused. Pure: the clock is an argument.

A request arrives before it is read, joins with its size, is granted or refused by `settle`, and leaves. At most
`requests` requests with `prompt_tokens` prompt tokens in total are granted at a time. At most `queue` requests wait,
highest priority first, then in order of arrival, each at most `queue_seconds`. No request overtakes the first one in
the queue, so none starves within its priority. A prompt larger than `prompt_tokens` is granted when no other request
is. O(log n) per event. `arrive` may be called on another thread than the other methods: it only reads and counts.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass

from kimi_k2_serving.core.errors import Overloaded

# The time to retry is estimated from this many of the last endings. Then its bounds, in seconds.
RATE_WINDOW = 32
RETRY_SECONDS = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The limits. `queue_seconds` is the longest wait of a request."""

    requests: int
    prompt_tokens: int
    queue: int
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """`refusal` is None for a request that is granted."""

    ticket: int
    refusal: Overloaded | None = None


@dataclass(slots=True)
class Waiting:
    prompt_tokens: int
    since: float


class Admission:
    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._tickets = itertools.count()
        # Every ticket that has not left. A ticket that is neither waiting nor granted belongs to a request being read.
        self._inside: set[int] = set()
        # In order of joining, which is also the order of expiry.
        self._waiting: dict[int, Waiting] = {}
        # A heap of (-priority, ticket); a ticket that no longer waits is skipped when it reaches the top.
        self._order: list[tuple[int, int]] = []
        self._granted: dict[int, int] = {}
        self._prompt_tokens = 0
        self._endings: deque[float] = deque(maxlen=RATE_WINDOW)

    @property
    def granted(self) -> int:
        return len(self._granted)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def prompt_tokens(self) -> int:
        """The sum over all granted requests."""
        return self._prompt_tokens

    def arrive(self) -> int:
        """Return a ticket. Raises Overloaded when every place is taken, including those in the queue."""
        if len(self._inside) >= self._capacity.requests + self._capacity.queue:
            raise self._overloaded()
        ticket = next(self._tickets)
        self._inside.add(ticket)
        return ticket

    def join(self, ticket: int, prompt_tokens: int, priority: int, now: float) -> None:
        """Enter the queue. Raises Overloaded and drops the ticket if the request would have to wait in a full queue."""
        assert ticket in self._inside
        if self.waiting >= self._capacity.queue and not (self.waiting == 0 and self._fits(prompt_tokens)):
            self._inside.discard(ticket)
            raise self._overloaded()
        self._waiting[ticket] = Waiting(prompt_tokens, now)
        heapq.heappush(self._order, (-priority, ticket))

    def settle(self, now: float) -> list[AdmissionDecision]:
        """Return every decision that is due. Call it after each event, and often so that waiting requests expire."""
        return [*self._expired(now), *self._grants()]

    def leave(self, ticket: int, now: float) -> None:
        """Remove a request that has ended, in any state; unknown tickets are ignored."""
        self._inside.discard(ticket)
        self._waiting.pop(ticket, None)
        if ticket in self._granted:
            self._prompt_tokens -= self._granted.pop(ticket)
            self._endings.append(now)

    def _expired(self, now: float) -> list[AdmissionDecision]:
        decisions = []
        while self._waiting:
            ticket, oldest = next(iter(self._waiting.items()))
            if now - oldest.since < self._capacity.queue_seconds:
                break
            del self._waiting[ticket]
            self._inside.discard(ticket)
            decisions.append(AdmissionDecision(ticket, self._overloaded()))
        return decisions

    def _grants(self) -> list[AdmissionDecision]:
        decisions = []
        while self._order:
            ticket = self._order[0][1]
            waiting = self._waiting.get(ticket)
            if waiting is not None:
                if not self._fits(waiting.prompt_tokens):
                    break
                del self._waiting[ticket]
                self._granted[ticket] = waiting.prompt_tokens
                self._prompt_tokens += waiting.prompt_tokens
                decisions.append(AdmissionDecision(ticket))
            heapq.heappop(self._order)
        return decisions

    def _fits(self, prompt_tokens: int) -> bool:
        if not self._granted:
            return True
        return (
            self.granted < self._capacity.requests
            and self._prompt_tokens + prompt_tokens <= self._capacity.prompt_tokens
        )

    def _overloaded(self) -> Overloaded:
        after = self._retry_after()
        return Overloaded(
            f"{self.granted} requests with {self._prompt_tokens} prompt tokens in flight, {self.waiting} waiting; "
            f"retry in {after:.0f} s",
            retry_after=after,
        )

    def _retry_after(self) -> float:
        """Seconds until the waiting requests will have been served, at the rate of the last endings."""
        low, high = RETRY_SECONDS
        if len(self._endings) < 2:
            return low
        seconds_each = (self._endings[-1] - self._endings[0]) / (len(self._endings) - 1)
        return min(max(seconds_each * (self.waiting + 1), low), high)
