"""Triton's Python models as processes: which of them has died while Triton lives on.

Triton starts a stub process per model instance and never starts one again; 24.10 goes on calling the model ready while
every request to it fails. One look reads the command line of each of Triton's children that was not there before.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from kimi_k2_serving.launch.traces import Ident

# The kernel keeps 15 bytes of `triton_python_backend_stub`.
_NAME = "triton_python_b"


class Stubs:
    """Those of the Triton with process id `triton`."""

    def __init__(self, triton: int) -> None:
        self._triton = triton
        self._instances: dict[Ident, str] = {}

    def dead(self) -> str | None:
        """The model instance of a stub that an earlier call has seen and that is gone; None if there is none."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._triton).children():
                with suppress(psutil.NoSuchProcess):
                    ident = Ident(process.pid, process.create_time())
                    if ident not in self._instances and process.name().startswith(_NAME):
                        self._instances[ident] = instance(process.cmdline())
        return next((name for ident, name in self._instances.items() if not ident.alive()), None)


def instance(command: list[str]) -> str:
    """The name that Triton gives the instance, the last but one of a stub's arguments."""
    return command[-2] if len(command) > 2 else "unknown"
