"""What the engine compiles, in its scheduler's process: two at once, cheap before expensive, expensive ones never both,
and all of it behind the scheduler.

Stands where SGLang's grammar backend has a ThreadPoolExecutor, and does what is asked of that one there. Handing the
compiled grammar over instead would cost more than it spares: as xgrammar 0.2.7 writes it, a grammar that compiles in
0.1 s took 40 s to write and 20 s to read (346 MB: every rule repeats the automaton of all), and the least 0.5 and 0.2.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from kimi_k2_serving.grammar.lanes import CompileLanes, known
from kimi_k2_serving.grammar.yielding import step_back

COMPILES = 2


class Compiles:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lanes = CompileLanes(COMPILES, prepare=step_back)

    def submit(self, function: Callable[..., Any], key: tuple[str, str], *rest: Any) -> Future[Any]:
        """`key`: the kind of a grammar and its text."""
        future: Future[Any] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(key, *rest))
                except Exception as error:
                    future.set_exception(error)

        self._lanes.submit(known(key[1]), work)
        return future

    def shutdown(self, wait: bool = True) -> None:
        """What has not begun never does; nobody waits."""
        self._lanes.shutdown()
