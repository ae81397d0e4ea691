"""Finds a Python model whose stub process has died while Triton itself still runs.

Triton starts one stub process per model instance and never restarts it. Triton 24.10 still reports the model as ready
then, although every request to it fails.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from kimi_k2_serving.launch.traces import Ident

# The kernel keeps 15 bytes of `triton_python_backend_stub`.
_NAME = "triton_python_b"


class Stubs:
    """The stubs that Triton, the process with the id `triton`, has now. Triton starts no more stubs when its models are
    ready.
    """

    def __init__(self, triton: int) -> None:
        self._instances: dict[Ident, str] = {}
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(triton).children():
                with suppress(psutil.NoSuchProcess):
                    if process.name().startswith(_NAME):
                        ident = Ident(process.pid, process.create_time())
                        self._instances[ident] = instance(process.cmdline())

    def dead(self) -> str | None:
        """The model instance of a stub that has ended; None without one."""
        return next((name for ident, name in self._instances.items() if not ident.alive()), None)


def instance(command: list[str]) -> str:
    """The name of the model instance, which Triton passes as the last but one argument of the stub."""
    return command[-2] if len(command) > 2 else "unknown"
