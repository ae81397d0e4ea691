"""One Triton process, from its start until nothing of it is left.

`wait` watches it, `stop` ends it and all its descendants. Stop signals are blocked and read with sigtimedwait(2), so no
code here runs in a signal handler. A stop takes up to `grace` seconds for requests in flight, plus at most 4 seconds;
a second stop signal makes it immediate.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.launch import state, traces
from kimi_k2_serving.launch.command import Command
from kimi_k2_serving.launch.outputs import start_logged
from kimi_k2_serving.launch.refusal import Failure
from kimi_k2_serving.launch.traces import Ident, Traces

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WATCHED = STOP_SIGNALS | {signal.SIGCHLD}
_LOOK_SECONDS = 1.0
_UNLOAD_SECONDS = 3.0  # Triton's time beyond the grace, to unload models and end stubs
_ECHO_SECONDS = 0.5  # timeout(1) sends its signal to the process and to its group: two signals this close are one
_TERM_SECONDS = 1.0  # from SIGTERM to SIGKILL for a process that has outlived Triton


class Stopped(Exception):
    """A signal asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class TritonProcess:
    """`command` runs in a session of its own and writes to `log`; `run` is the folder of the state file."""

    def __init__(self, command: Command, *, log: Path, run: Path, runtime_dir: Path, grace: int) -> None:
        self._command = command
        self._log = log
        self._run = run
        self._runtime_dir = runtime_dir
        self._grace = grace
        self._traces = Traces.begin()
        self._process: subprocess.Popen[bytes] | None = None
        self._copier: threading.Thread | None = None
        self._looked = 0.0
        owner = traces.identify(os.getpid())
        assert owner is not None, "this process exists"
        self._owner = owner

    def start(self, inherited: dict[str, str]) -> None:
        """Block the stop signals from here on, and start Triton."""
        linux.become_subreaper()
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._save()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.unlink(missing_ok=True)
        environment = self._command.merged(inherited)
        self._process, self._copier = start_logged(
            self._command.argv, environment, self._log, name="tritonserver", in_child=in_child
        )

    @property
    def pid(self) -> int:
        assert self._process is not None, "start comes first"
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Watch for `seconds`. Return Triton's exit status if it ended, else None. Raise Stopped for a stop signal."""
        deadline = time.monotonic() + seconds
        while True:
            if (status := self._poll()) is not None:
                return status
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._looked = time.monotonic()
                if self._traces.glance(os.getpid()):
                    self._save()
            left = min(deadline - time.monotonic(), _LOOK_SECONDS)
            if left <= 0:
                return None
            taken = signal.sigtimedwait(_WATCHED, left)
            if taken is not None and taken.si_signo in STOP_SIGNALS:
                raise Stopped(taken.si_signo)

    def stop(self) -> list[str]:
        """End all processes, remove their files, and return the names removed from /dev/shm. Never raises Stopped."""
        hurried = False
        self._look()
        if self._poll() is None:
            self._signal([self._process.pid] if self._process else [], signal.SIGTERM)
            hurried = not self._until(lambda: self._poll() is not None, self._grace + _UNLOAD_SECONDS)
        if not hurried:
            self._signal(self._pids(), signal.SIGTERM)
            self._until(lambda: not self._alive(), _TERM_SECONDS)
        self._signal(self._pids(), signal.SIGKILL)
        while self._alive():
            self._signal(self._pids(), signal.SIGKILL)
            time.sleep(0.02)
        if self._copier is not None:
            self._copier.join(_UNLOAD_SECONDS)
        removed = shared_memory.remove(self._traces.entries)
        state.remove_runtime_dir(self._runtime_dir)
        state.path_of(self._run, self._owner.pid).unlink(missing_ok=True)
        return removed

    def _poll(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _look(self) -> None:
        if self._traces.look(os.getpid()):
            self._save()

    def _save(self) -> None:
        state.save(self._run, state.snapshot(self._owner, self._runtime_dir, self._traces))

    def _alive(self) -> list[Ident]:
        """The recorded processes that still run. Reaps orphans, whose parent this process has become."""
        self._look()
        for process in self._traces.processes:
            if self._process is None or process.pid != self._process.pid:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
        self._poll()
        return self._traces.alive()

    def _pids(self) -> list[int]:
        return [process.pid for process in self._alive()]

    @staticmethod
    def _signal(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @staticmethod
    def _until(done: Callable[[], bool], seconds: float) -> bool:
        """Wait for `done`. Return False if another stop signal came or the time ran out."""
        begun = time.monotonic()
        while not done():
            taken = signal.sigtimedwait(_WATCHED, 0.1)
            elapsed = time.monotonic() - begun
            again = taken is not None and taken.si_signo in STOP_SIGNALS and elapsed > _ECHO_SECONDS
            if again or elapsed >= seconds:
                return False
        return True


def in_child() -> None:
    """Run this between fork and exec. It unblocks the signals, makes the kernel end this child if the launcher is
    killed, and keeps its files private by a umask, because those in /dev/shm hold requests.
    """
    linux.keep_private()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    linux.die_with_parent()


def make_runtime_dir(base: Path) -> Path:
    """Make a directory (0700) for unix sockets; under /tmp if the path of a socket under `base` would be too long."""
    path = Path(tempfile.mkdtemp(prefix=state.RUNTIME_PREFIX, dir=base))
    if len(str(path)) > 60:  # the path of a unix socket has at most 107 bytes
        path.rmdir()
        return Path(tempfile.mkdtemp(prefix=state.RUNTIME_PREFIX, dir="/tmp"))
    return path


def why_triton_ended(status: int) -> Failure:
    """Explain Triton's exit status; a negative one is a signal's number."""
    if status < 0:
        return Failure(f"Triton was ended by {signal.Signals(-status).name}")
    return Failure(f"Triton ended by itself with exit code {status}")
