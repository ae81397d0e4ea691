"""Whether the engine's work moves, judged from what its processes show. Pure: the clock is an argument.

Movement is an output, or a scheduler that has published a new state while it has requests. A scheduler that says it
has none while requests are in flight does not move: their outputs are lost. No movement for `stall_seconds` while
anything is in flight is a stall; so is a process stopped for so long, which the others may outlive for a while. A long
prefill moves chunk by chunk; on a plain CPU, where one chunk may take longer than that, by the CPU time it takes. On
an accelerator CPU time says nothing: a scheduler that waits for a hung device spins.
"""

from __future__ import annotations

CPU_SECONDS = 0.5


class StallDetector:
    def __init__(self, stall_seconds: float, now: float) -> None:
        self._stall_seconds = stall_seconds
        self._moved = now
        self._ran = now
        self._published = 0.0
        self._cpu_seconds = 0.0

    def output(self, now: float) -> None:
        self._moved = now

    def scheduler(self, published: float, now: float, *, busy: bool) -> None:
        """`published` is the scheduler's own timestamp of its state; `busy` while it has requests."""
        if published != self._published and busy:
            self._moved = now
        self._published = published

    def worked(self, cpu_seconds: float, now: float) -> None:
        """`cpu_seconds` of the schedulers so far. Idle ones take some too, a hundred times less than CPU_SECONDS each
        second.
        """
        if cpu_seconds - self._cpu_seconds >= CPU_SECONDS:
            self._cpu_seconds = cpu_seconds
            self._moved = now

    def moved_within(self, seconds: float, now: float) -> bool:
        return now - self._moved < seconds

    def stalled(self, now: float, *, in_flight: bool, stopped: bool) -> bool:
        """To be asked often: idle time does not count. `stopped`: a process of the engine is stopped by a signal."""
        if not in_flight:
            self._moved = now
        if not in_flight or not stopped:
            self._ran = now
        return now - min(self._moved, self._ran) >= self._stall_seconds


class SilenceDetector:
    """Which requests get no output while the engine moves for others: those of `seconds` without one, counted while the
    scheduler has nobody waiting. One that waits in its queue is silent by right, and which one that is nobody says.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._asked = now
        self._silent: dict[str, float] = {}

    def begin(self, uid: str) -> None:
        self._silent[uid] = 0.0

    def output(self, uid: str) -> None:
        if uid in self._silent:
            self._silent[uid] = 0.0

    def end(self, uid: str) -> None:
        self._silent.pop(uid, None)

    def lost(self, now: float, *, queued: int) -> list[str]:
        """To be asked often: time between two questions counts for a second at most, as this process may have been
        stopped. Each is told once.
        """
        passed = 0.0 if queued else min(now - self._asked, 1.0)
        self._asked = now
        found = []
        for uid in self._silent:
            self._silent[uid] += passed
            if self._silent[uid] >= self._seconds:
                found.append(uid)
        for uid in found:
            del self._silent[uid]
        return found
