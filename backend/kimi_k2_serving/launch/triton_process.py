"""One Triton process from its start to the moment when nothing of it is left.

`wait` watches until something is to be done, `stop` ends everything. The signals that ask this process to stop are
blocked and taken from the kernel one at a time, so nothing here runs inside a signal handler. A stop takes `grace`
seconds for requests in flight and at most 4 more; a second signal ends it at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kimi_k2_serving.engine import linux, shared_memory
from kimi_k2_serving.launch import state, traces
from kimi_k2_serving.launch.command import Command
from kimi_k2_serving.launch.refusal import Failure
from kimi_k2_serving.launch.traces import Ident, Traces

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WATCHED = STOP_SIGNALS | {signal.SIGCHLD}
_LOOK_SECONDS = 1.0
_UNWIND_SECONDS = 3.0  # what Triton may take beyond the grace: unloading models, ending stubs
_ECHO_SECONDS = 0.5  # timeout(1) sends its signal twice, to the process and to its group: that is one request
_TERM_SECONDS = 1.0  # what a process that outlived Triton gets before it is killed


class Stopped(Exception):
    """A signal asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class TritonProcess:
    """`command` runs in its own session with `log` as its output; `run` is the folder of the state file."""

    def __init__(self, command: Command, *, log: Path, run: Path, runtime_dir: Path, grace: int) -> None:
        self._command = command
        self._log = log
        self._run = run
        self._runtime_dir = runtime_dir
        self._grace = grace
        self._traces = Traces.begin()
        self._process: subprocess.Popen[bytes] | None = None
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
        with linux.private_log(self._log) as log:
            self._process = subprocess.Popen(
                self._command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._command.merged(inherited),
                start_new_session=True,
                preexec_fn=in_child,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, "start comes first"
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Watch for `seconds`: Triton's exit status if it ended, else None. Raise Stopped for a stop signal."""
        deadline = time.monotonic() + seconds
        while True:
            if (status := self._poll()) is not None:
                return status
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._look()
            left = min(deadline - time.monotonic(), _LOOK_SECONDS)
            if left <= 0:
                return None
            taken = signal.sigtimedwait(_WATCHED, left)
            if taken is not None and taken.si_signo in STOP_SIGNALS:
                raise Stopped(taken.si_signo)

    def stop(self) -> list[str]:
        """End every process, remove what they left; the /dev/shm names that had to be removed. Never raises Stopped."""
        hurried = False
        self._look()
        if self._poll() is None:
            self._signal([self._process.pid] if self._process else [], signal.SIGTERM)
            hurried = not self._until(lambda: self._poll() is not None, self._grace + _UNWIND_SECONDS)
        if not hurried:
            self._signal(self._pids(), signal.SIGTERM)
            self._until(lambda: not self._alive(), _TERM_SECONDS)
        self._signal(self._pids(), signal.SIGKILL)
        while self._alive():
            self._signal(self._pids(), signal.SIGKILL)
            time.sleep(0.02)
        removed = shared_memory.remove(self._traces.entries)
        state.remove_runtime_dir(self._runtime_dir)
        state.path_of(self._run, self._owner.pid).unlink(missing_ok=True)
        return removed

    def _poll(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self._traces.look(os.getpid()):
            self._save()

    def _save(self) -> None:
        state.save(self._run, state.snapshot(self._owner, self._runtime_dir, self._traces))

    def _alive(self) -> list[Ident]:
        """What still runs, after collecting the exit status of orphans that became ours."""
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
        """Wait for `done`; False if a further stop signal came or the time ran out."""
        begun = time.monotonic()
        while not done():
            taken = signal.sigtimedwait(_WATCHED, 0.1)
            passed = time.monotonic() - begun
            again = taken is not None and taken.si_signo in STOP_SIGNALS and passed > _ECHO_SECONDS
            if again or passed >= seconds:
                return False
        return True


def in_child() -> None:
    """Between fork and exec: usual signals, an orderly end if the launcher is killed, and files that only this user
    reads: requests lie in /dev/shm, and Triton makes its files there readable by all but for the umask.
    """
    linux.keep_private()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    linux.die_with_parent()


def make_runtime_dir(base: Path) -> Path:
    """A new directory (0700) for unix sockets, under /tmp if `base` would leave no room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix=state.RUNTIME_PREFIX, dir=base))
    if len(str(path)) > 60:  # a unix socket's address holds 107 bytes
        path.rmdir()
        return Path(tempfile.mkdtemp(prefix=state.RUNTIME_PREFIX, dir="/tmp"))
    return path


def why_triton_ended(status: int) -> Failure:
    """Why Triton is gone, from its exit status."""
    if status < 0:
        return Failure(f"Triton was ended by {signal.Signals(-status).name}")
    return Failure(f"Triton ended by itself with exit code {status}")
