"""Starts a process whose output goes to a log, with every line wrapped if logs are JSON."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kimi_k2_serving import logs
from kimi_k2_serving.engine import linux


def start_logged(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, name: str, in_child: Callable[[], None]
) -> tuple[subprocess.Popen[bytes], threading.Thread | None]:
    """Start the process in a session of its own. Returns it and the thread that wraps its lines. The thread ends after
    the last process that writes lines. Raises OSError.
    """

    def started(output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=in_child,
        )

    with linux.private_log(log) as file:
        if not logs.wants_json(environment):
            return started(file.fileno()), None
        reading, writing = os.pipe()
        source = os.fdopen(reading, "rb")
        try:
            process = started(writing)
        except OSError:
            source.close()
            raise
        finally:
            os.close(writing)

    def copy() -> None:
        with source, linux.private_log(log) as file:
            logs.wrap_all(source, file, name, process.pid)

    copier = threading.Thread(target=copy, name=f"log-{name}", daemon=True)
    copier.start()
    return process, copier
