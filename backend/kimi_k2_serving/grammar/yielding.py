"""How compiling yields to serving: who compiles gets a small share where processors are short, and leaves most of them
alone where there are many.

Knows nothing of grammars. On Linux a thread has a niceness of its own, and those that it starts have the same.
"""

from __future__ import annotations

import os
import threading

# Of a processor that is short, a thread that serves gets three times as much as one that compiles. A share much smaller
# would be none on a machine that does other things as well, and what compiles has a deadline by the clock.
NICENESS = 5
# xgrammar starts eight threads for each grammar by itself; on few processors those alone would crowd everybody out.
_MOST_THREADS = 8
_PROCESSORS_A_THREAD = 4


def step_back() -> None:
    """This thread yields from now on. Nothing where it does already."""
    if os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def threads() -> int:
    """How many one grammar may be compiled with."""
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // _PROCESSORS_A_THREAD))
