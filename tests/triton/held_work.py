"""Workers that work when the test tells them to."""

from __future__ import annotations

from collections.abc import Callable


class Queue:
    """As `triton.senders.Workers`: `run` does all that was submitted, on the calling thread."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None]) -> None:
        self.work.append(work)

    def run(self) -> None:
        while self.work:
            self.work.pop(0)()
