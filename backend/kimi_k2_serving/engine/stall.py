"""Decides whether the engine makes progress, from the signs that its processes give. Pure: the clock is an argument.

Progress is an output, or a new state that the scheduler publishes while it has requests. If the scheduler reports no
requests although some are in flight, that is no progress: their outputs are lost. The engine stalls if requests are in
flight and for `stall_seconds` either there is no progress or a process stays stopped by a signal. A stopped process
counts because the others may go on for a while without it. A long prefill makes progress chunk by chunk. On a plain CPU
one chunk may take longer than `stall_seconds`, so there CPU time counts as progress, too. On an accelerator it does
not, because a scheduler that waits for a hung device uses CPU time.
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
        """Note a state of the scheduler. `published`: its timestamp of the state. `busy`: whether it has requests."""
        if published != self._published and busy:
            self._moved = now
        self._published = published

    def worked(self, cpu_seconds: float, now: float) -> None:
        """`cpu_seconds`: the schedulers' CPU time so far. Idle schedulers use about CPU_SECONDS / 100 per second."""
        if cpu_seconds - self._cpu_seconds >= CPU_SECONDS:
            self._cpu_seconds = cpu_seconds
            self._moved = now

    def moved_within(self, seconds: float, now: float) -> bool:
        return now - self._moved < seconds

    def stalled(self, now: float, *, in_flight: bool, stopped: bool) -> bool:
        """Call it often: time counts only between calls with requests in flight. `stopped`: whether a process of the
        engine is stopped by a signal.
        """
        if not in_flight:
            self._moved = now
        if not in_flight or not stopped:
            self._ran = now
        return now - min(self._moved, self._ran) >= self._stall_seconds


class SilenceDetector:
    """Finds requests that get no output for `seconds` while the engine makes progress with others. Time counts only
    while the scheduler's queue is empty: a queued request gets no output, and SGLang does not say which requests are
    queued.
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
        """The lost requests, each returned once. Call it often: the time between two calls counts as one second at
        most, because this process may have been stopped meanwhile.
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
