"""The `tritonserver` command line and its environment, as values. Pure; hardened by default.

These are closed: loading and unloading models, the SageMaker and Vertex endpoints, and the shared-memory, trace and
logging interfaces. Through the last three a client could map this host's memory or write its files. Triton can't switch
them off, but it can demand a header. No request can have the header demanded here, so it need not be secret: `ps` shows
this command line to every local user.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving import settings
from kimi_k2_serving.launch.backends import Wheel
from kimi_k2_serving.launch.cli import Options

CLOSED = "shared-memory,trace,logging"
# The demanded header's name is `no header:opens`. HTTP ends a name at its first colon, and gRPC ends a request whose
# header name has a colon or a space. Triton splits this flag at its first colon and at the equals sign.
UNSENDABLE = f"{CLOSED}:no header:opens=this"
# The backend ends the remaining requests this long before Triton's own limit, so that this limit never cuts one off.
_UNLOAD_SECONDS = 3


@dataclass(frozen=True, slots=True)
class Command:
    """`argv`; the variables that it needs in addition to the inherited ones; and the inherited ones to `unset`."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    unset: tuple[str, ...] = ("PYTHONPATH", "PYTHONHOME")

    def paste(self) -> str:
        """One quoted shell command that does the same in every shell."""
        unset = [word for name in self.unset for word in ("-u", name)]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return shlex.join(["env", *unset, *variables, *self.argv])

    def merged(self, inherited: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in inherited.items() if name not in self.unset} | dict(self.environment)


def triton_arguments(options: Options, *, server: Path, repository: Path, backends: Path) -> tuple[str, ...]:
    host = options.triton_host
    flags = {
        "model-repository": str(repository),
        "backend-directory": str(backends),
        "model-control-mode": "none",
        "disable-auto-complete-config": None,
        "exit-on-error": "true",
        "strict-readiness": "true",
        "exit-timeout-secs": str(options.grace + _UNLOAD_SECONDS),
        "http-address": host,
        "http-port": str(options.http_port),
        "grpc-address": host,
        "grpc-port": str(options.grpc_port),
        "metrics-address": host,
        "metrics-port": str(options.metrics_port),
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "http-restricted-api": UNSENDABLE,
        "grpc-restricted-protocol": UNSENDABLE,
        "log-verbose": "0",
    }
    return (str(server), *(f"--{name}" if value is None else f"--{name}={value}" for name, value in flags.items()))


def triton_environment(
    *,
    wheel: Wheel,
    venv: Path,
    libpython: Path,
    path: str,
    checkpoint: Path,
    preset: str | None,
    force_cpu: bool,
    cache: Path,
    runtime_dir: Path | None,
) -> dict[str, str]:
    """Triton's environment. `path` is the inherited PATH; the virtual environment goes in front of it."""
    variables = {
        # The running Python's library must come first, because with another one the stub fails to import `_ssl`.
        "LD_LIBRARY_PATH": f"{libpython.parent}:{wheel.libraries}",
        # The stub takes its packages from the first python3 on PATH.
        "PATH": f"{venv / 'bin'}:{path}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        settings.CHECKPOINT: str(checkpoint),
        settings.CACHE: str(cache),
    }
    if force_cpu:
        variables["SGLANG_PLATFORM"] = "kimi_k2_cpu"  # the name that engine/cpu_plugin.py registers
    if preset is not None:
        variables[settings.PRESET] = preset
    if runtime_dir is not None:
        variables[settings.RUNTIME_DIR] = str(runtime_dir)
    return variables
