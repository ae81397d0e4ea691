"""The parent's side of a worker process: starts it in the background, keeps it alive, sends it jobs and ends it.

A thread restarts a worker that dies: at once, or after a growing pause while the worker cannot be started; during the
pause, jobs fail at once. The worker ends with `close`, and by itself when this process ends in any way, because its
input ends. Thread-safe.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kimi_k2_serving.core.errors import Internal, Overloaded

logger = logging.getLogger(__name__)

READY = b"ready"
# The first line of an answer. Without it the worker died before it took the job.
TAKEN = b"{}"
# For loading torch, xgrammar and a vocabulary of 163,840 tokens on a busy machine.
START_SECONDS = 120.0
# The kernel ends a job at once when its budget is used up; this is for a machine that swaps.
SLACK_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 30.0
LACKING = "the server has no process or memory to spare for a new schema; retry in 1 s"
TRIES = 2

# The time at which a line came, by the monotonic clock, and the line.
Line = tuple[float, dict[str, Any]]


class Worker(Protocol):
    """The methods of a worker that its users need."""

    def start(self) -> None: ...

    def wait(self) -> None: ...

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]: ...

    def close(self) -> None: ...


class WorkerProcess:
    """`checkpoint` None: the worker only validates. `python` is the interpreter that has this package."""

    def __init__(self, checkpoint: Path | None, *, python: str = sys.executable) -> None:
        checkpoint_argument = [] if checkpoint is None else [str(checkpoint)]
        self._command = [python, "-m", "kimi_k2_serving.enforcer.worker_main", *checkpoint_argument]
        self._changed = threading.Condition(threading.RLock())
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = self._lacking = False
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="grammar-worker", daemon=True)

    @property
    def pid(self) -> int | None:
        """None while the worker is not ready."""
        with self._changed:
            return self._process.pid if self._control is not None and self._process is not None else None

    def start(self) -> None:
        """Returns at once; the second and later calls do nothing."""
        with self._changed:
            if self._keeper.ident is None and not self._closed.is_set():
                self._keeper.start()

    def wait(self) -> None:
        """Wait until the worker takes jobs. Raises Internal if it does not start, and Overloaded if the machine had no
        process or memory left for it during START_SECONDS.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._ready_control(START_SECONDS)
                return
            except Overloaded:
                if self._closed.wait(0.1) or time.monotonic() > deadline:
                    raise

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]:
        """The lines of one job's answer, [] if the job died. `seconds` limits the job, `patience` the wait for a worker
        that is loading. Raises Internal without a worker, Overloaded if the machine has nothing left to start one.
        """
        job = json.dumps(header).encode() + b"\n" + rest
        for _ in range(TRIES):
            control = self._ready_control(patience)
            lines = self._try(control, job, seconds)
            if lines:
                return lines[1:]
            self._lose(control)
        raise Internal("the grammar compiler keeps dying; see the server's log")

    def close(self) -> None:
        """End the worker for good."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        self._kill()
        if self._keeper.ident is not None:
            self._keeper.join(SLACK_SECONDS)

    def _try(self, control: socket.socket, job: bytes, seconds: float) -> list[Line]:
        """The lines that came; [] if the worker did not take the job."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise self._overloaded(error) from None
        with ours:
            ours.settimeout(seconds + SLACK_SECONDS)
            deadline = time.monotonic() + seconds + SLACK_SECONDS
            try:
                with theirs:
                    socket.send_fds(control, [str(seconds).encode()], [theirs.fileno()])
                ours.sendall(job)
                ours.shutdown(socket.SHUT_WR)
            except OSError:
                # The worker is gone, but what it sent before can still be read.
                deadline = min(deadline, time.monotonic() + 1.0)
            return self._lines(ours, deadline)

    def _lines(self, channel: socket.socket, deadline: float) -> list[Line]:
        found: list[Line] = []
        buffer = b""
        while True:
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                piece = channel.recv(1 << 20)
            except OSError:
                return found
            if not piece:
                return found
            # For a grammar of 2 MB, near the largest, msgspec holds the GIL for 3.6 ms, json for 10 ms.
            *whole, buffer = (buffer + piece).split(b"\n")
            found += [(time.monotonic(), msgspec.json.decode(line)) for line in whole]

    def _ready_control(self, patience: float) -> socket.socket:
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: self._control is not None or self._failed or self._closed.is_set(), patience)
            if self._closed.is_set():
                raise Internal("the grammar compiler was closed")
            if self._control is None:
                raise Overloaded(LACKING) if self._lacking else Internal("the grammar compiler did not start")
            return self._control

    def _overloaded(self, error: OSError) -> Overloaded:
        logger.warning("the machine has too little left for the grammar compiler: %s", error.strerror)
        return Overloaded(LACKING)

    def _lose(self, control: socket.socket) -> None:
        """Kill the worker behind `control`, which took no job, unless another one has replaced it."""
        with self._changed:
            if self._control is control:
                self._kill()

    def _kill(self) -> None:
        with self._changed:
            self._control = None
            if self._process is not None:
                self._process.kill()

    def _keep(self) -> None:
        pause = 0.0
        while not self._closed.wait(pause):
            try:
                ready, lacking = self._run(), False
            except OSError as error:
                self._overloaded(error)
                ready, lacking = False, True
            except Exception:
                # This thread must go on: no other one starts the worker.
                logger.exception("the grammar compiler could not be started")
                ready = lacking = False
            with self._changed:
                self._failed, self._lacking = not ready, lacking
                self._changed.notify_all()
            pause = 0.1 if ready else min(max(2 * pause, 0.5), LONGEST_PAUSE_SECONDS)

    def _run(self) -> bool:
        """Run one process until it ends; returns whether it became ready."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs, self._changed:
                if self._closed.is_set():
                    return True
                self._process = subprocess.Popen(self._command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
            ready = self._becomes_ready(ours)
            with self._changed:
                self._failed, self._lacking = not ready, False
                self._control = ours if ready and not self._closed.is_set() else None
                self._changed.notify_all()
            if not ready:
                self._kill()
            self._process.wait()
            with self._changed:
                self._control = self._process = None
        return ready

    @staticmethod
    def _becomes_ready(control: socket.socket) -> bool:
        control.settimeout(START_SECONDS)
        try:
            return control.recv(len(READY)) == READY
        except OSError:
            return False
        finally:
            control.settimeout(None)
