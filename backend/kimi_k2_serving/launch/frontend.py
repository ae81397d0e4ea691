"""The OpenAI and Anthropic frontend beside Triton: started once the model is ready, and again whenever it has died.

It is one more descendant of `serve`: what ends and cleans up after Triton's processes does so for its own.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kimi_k2_serving.engine import linux
from kimi_k2_serving.launch import triton_process
from kimi_k2_serving.launch.cli import Options
from kimi_k2_serving.launch.ready import reachable

_PAUSE_SECONDS = 1.0  # between a death and the next start


def frontend_arguments(options: Options, *, python: Path, checkpoint: Path, repository: Path) -> list[str]:
    """The frontend's command line for a server with these flags."""
    flags: dict[str, object] = {
        "--host": options.host,
        "--port": options.frontend_port,
        "--grpc-url": f"{reachable(options.triton_host)}:{options.grpc_port}",
        "--checkpoint": checkpoint,
        "--model-repository": repository,
        "--workers": options.workers,
        "--grace": options.grace,
    }
    if options.preset is not None:
        flags["--preset"] = options.preset
    if options.api_key_file is not None:
        flags["--api-key-file"] = options.api_key_file
    words = [str(word) for pair in flags.items() for word in pair]
    names = [word for name in options.allowed_host for word in ("--allowed-host", name)]
    return [str(python), "-m", "kimi_k2_serving.frontend", *words, *names]


class Frontend:
    """`log` is its output, appended to over restarts; `environment` is the whole of its environment."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._environment = dict(environment)
        self.log = log
        self._clock = clock
        self._died: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with linux.private_log(self.log) as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=triton_process.in_child,
            )

    def tend(self) -> bool:
        """Called every second or so: start it again a while after it has died. True if that was done. Raises OSError if
        it could not be; a later call tries again.
        """
        if self._process is None or self._process.poll() is None:
            return False
        self._died = self._clock() if self._died is None else self._died
        if self._clock() - self._died < _PAUSE_SECONDS:
            return False
        # A failed start is tried again after the same pause.
        self._died = self._clock()
        self.start()
        self._died = None
        return True

    def end(self) -> None:
        """Ask it to stop: it finishes what it has within its grace. `Server.stop` waits for it and sees to the rest."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
