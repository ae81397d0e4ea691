"""Times that are promised in fractions of a second, measured so that a busy machine does not fail them."""

from __future__ import annotations

import time
from collections.abc import Callable

# A machine that is busy delays some of the attempts; slow code delays every one.
ATTEMPTS = 5


def quickest(attempt: Callable[[], object], seconds: float, before: Callable[[], object] = lambda: None) -> float:
    """The time of the first attempt that takes less than `seconds`, or the shortest of ATTEMPTS. `before` runs before
    each and is not timed. A fault that delays only some of the attempts goes unseen.
    """
    times: list[float] = []
    while len(times) < ATTEMPTS and (not times or times[-1] >= seconds):
        before()
        begin = time.monotonic()
        attempt()
        times.append(time.monotonic() - begin)
    return min(times)
