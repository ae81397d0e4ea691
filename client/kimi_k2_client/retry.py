"""The one retry policy: when the same request is worth sending again, and after how long.

Only what provably began no answer is repeated: a refusal with Unavailable (but not with Quarantined, which means this
very request), a connection that was never made. The caller
asks only as long as no response has come. Knows no clock and no randomness: both are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_client.errors import KimiError, Quarantined, Unavailable


@dataclass(frozen=True, slots=True)
class Retry:
    """`retries` further attempts; waits grow from `first` by doubling up to `longest`, all in seconds."""

    retries: int = 2
    first: float = 0.25
    longest: float = 8.0

    def delay(self, failures: int, error: KimiError, fraction: float) -> float | None:
        """Seconds to wait after failure number `failures` (from 1), or None to give up.

        `fraction` in [0, 1) is the caller's randomness: half of the wait is spread by it, so that clients that failed
        together do not return together. A server's own `retry_after` is never undercut.
        """
        if failures > self.retries or not isinstance(error, Unavailable) or isinstance(error, Quarantined):
            return None
        step = min(self.longest, self.first * 2.0 ** (failures - 1))
        return max(step * (0.5 + 0.5 * fraction), error.retry_after or 0.0)
