"""Finds a Python model whose stub process has died while Triton itself still runs.

Triton starts one stub process per model instance and never restarts it. Triton 24.10 still reports the model as ready
then, although every request to it fails. Triton's children are listed only after a process was started somewhere.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from kimi_k2_serving.launch.traces import Change, Ident, newest_process

# The kernel keeps 15 bytes of `triton_python_backend_stub`.
_NAME = "triton_python_b"


class Stubs:
    """The stubs of the Triton process with the id `triton`."""

    def __init__(self, triton: int) -> None:
        self._triton = triton
        self._instances: dict[Ident, str] = {}
        self._started = Change()

    def dead(self) -> str | None:
        """The model instance of a stub that this or an earlier call has seen and that has ended; None without one."""
        if self._started.seen(newest_process()):
            self._list()
        return next((name for ident, name in self._instances.items() if not ident.alive()), None)

    def _list(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._triton).children():
                with suppress(psutil.NoSuchProcess):
                    ident = Ident(process.pid, process.create_time())
                    if ident not in self._instances and process.name().startswith(_NAME):
                        self._instances[ident] = instance(process.cmdline())


def instance(command: list[str]) -> str:
    """The name of the model instance, which Triton passes as the last but one argument of the stub."""
    return command[-2] if len(command) > 2 else "unknown"
