"""The process of the OpenAI and Anthropic frontend. It is started next to Triton, and again whenever it has died.

It is a descendant of `serve`, so TritonProcess.stop ends it and cleans up after it, as it does for Triton's own
processes.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kimi_k2_serving.launch import triton_process
from kimi_k2_serving.launch.cli import Options
from kimi_k2_serving.launch.outputs import start_logged
from kimi_k2_serving.launch.ready import reachable

_PAUSE_SECONDS = 1.0  # between a death and the next start


def frontend_arguments(
    options: Options, *, python: Path, checkpoint: Path, repository: Path, aliases: Sequence[str] = ()
) -> list[str]:
    """The frontend's command line for a server with these flags. `aliases` are the model's other ids."""
    flags: dict[str, object] = {
        "--host": options.host,
        "--port": options.frontend_port,
        "--grpc-url": f"{reachable(options.triton_host)}:{options.grpc_port}",
        "--triton-metrics": f"{reachable(options.triton_host)}:{options.metrics_port}",
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
    page = [] if options.page is None else ["--page" if options.page else "--no-page"]
    names = [word for name in options.allowed_host for word in ("--allowed-host", name)]
    ids = [word for name in aliases for word in ("--model-alias", name)]
    return [str(python), "-m", "kimi_k2_serving.frontend", *words, *page, *names, *ids]


class Frontend:
    """`log` takes the output of all starts, appended; `environment` is the whole environment of the process."""

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
        self._process, _ = start_logged(
            self._command, self._environment, self.log, name="frontend", in_child=triton_process.in_child
        )

    def tend(self) -> bool:
        """Restart a frontend that has died, after a pause; call this about once per second. Return whether it was
        restarted. Raise OSError if the start failed; a later call tries again.
        """
        if self._process is None or self._process.poll() is None:
            return False
        self._died = self._clock() if self._died is None else self._died
        if self._clock() - self._died < _PAUSE_SECONDS:
            return False
        self._died = self._clock()  # if the start fails, the next attempt comes after the same pause
        self.start()
        self._died = None
        return True

    def end(self) -> None:
        """Send SIGTERM; the frontend then finishes its requests within --grace. TritonProcess.stop waits for that."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
