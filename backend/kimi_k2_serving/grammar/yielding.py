"""How compiling yields to serving: a thread that compiles gets a small share of a busy processor, and a grammar is
compiled on few of the processors.

Knows nothing of grammars. On Linux each thread has a niceness of its own, which the threads that it starts inherit.
"""

from __future__ import annotations

import os
import threading

# On a busy processor, a thread that serves gets three times as much time as one that compiles. With a much smaller
# share, a compile would miss its wall-clock deadline on a machine that does other things as well.
NICENESS = 5
# By default xgrammar starts eight threads for each grammar; on few processors they would leave no time to others.
_MAX_THREADS = 8
_PROCESSORS_PER_THREAD = 4


def step_back() -> None:
    """Lower the priority of this thread, unless it is low already."""
    if os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def threads() -> int:
    """How many threads may compile one grammar."""
    return max(1, min(_MAX_THREADS, len(os.sched_getaffinity(0)) // _PROCESSORS_PER_THREAD))
