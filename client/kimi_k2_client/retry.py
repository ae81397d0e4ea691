"""The retry policy: which failed requests are sent again, and after how long.

Only a request that certainly began no answer is sent again. Either it was refused with Unavailable, but not
Quarantined, which concerns this very request. Or no connection was made. The caller uses the policy only before the
first response. The policy has no clock and no random numbers: both are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_client.errors import KimiError, Quarantined, Unavailable, WrongPort


@dataclass(frozen=True, slots=True)
class Retry:
    """At most `retries` further attempts. The wait doubles from `first` to at most `longest`, both in seconds."""

    retries: int = 2
    first: float = 0.25
    longest: float = 8.0

    def delay(self, failures: int, error: KimiError, fraction: float) -> float | None:
        """Seconds to wait after failure number `failures` (from 1), or None to give up.

        `fraction` in [0, 1) is a random number that varies half of the wait, so that clients that failed together do
        not retry together. The wait is never shorter than the server's `retry_after`.
        """
        hopeless = isinstance(error, Quarantined | WrongPort)
        if failures > self.retries or not isinstance(error, Unavailable) or hopeless:
            return None
        step = min(self.longest, self.first * 2.0 ** (failures - 1))
        return max(step * (0.5 + 0.5 * fraction), error.retry_after or 0.0)
