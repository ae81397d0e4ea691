"""The properties of this machine, observed once; preflight.py judges them. Standard library only.

Sizes are in bytes. `observe` takes the paths of /proc and /dev, so that a test can describe another machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """`libpython` is None if this Python has no shared library; `glibc` is (0, 0) with another C library."""

    python: tuple[int, int]
    architecture: str
    cpu_flags: frozenset[str]
    glibc: tuple[int, int]
    libpython: Path | None
    free_disk: int
    nvidia: bool
    gpus: tuple[Gpu, ...]


def observe(root: Path, *, proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> Machine:
    """Observe this machine. `root` is the directory that will hold .venv and .cache; its disk is measured."""
    nvidia = (proc / "driver/nvidia/version").exists() or (dev / "nvidia0").exists()
    return Machine(
        python=(sys.version_info.major, sys.version_info.minor),
        architecture=platform.machine(),
        cpu_flags=_cpu_flags(proc / "cpuinfo"),
        glibc=_glibc(),
        libpython=libpython(),
        free_disk=shutil.disk_usage(root).free,
        nvidia=nvidia,
        gpus=_gpus() if nvidia else (),
    )


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def _glibc() -> tuple[int, int]:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return (0, 0)
    numbers = version.split(".")
    return (int(numbers[0]), int(numbers[1])) if name == "glibc" and len(numbers) >= 2 else (0, 0)


def libpython() -> Path | None:
    """The shared library of the running Python, which Triton's Python stub loads."""
    directory, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if not directory or not name or ".so" not in name:
        return None
    # Debian keeps it one level deeper, in a directory named after the architecture.
    folders = (Path(directory), Path(directory) / (sysconfig.get_config_var("MULTIARCH") or ""))
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _gpus() -> tuple[Gpu, ...]:
    """Names and memory as nvidia-smi reports them; empty if it is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return tuple(Gpu(row[0], int(row[1]) * 2**20) for row in rows if len(row) == 2 and row[1].isdecimal())


def port_is_free(host: str, port: int) -> bool:
    """Whether `port` can be bound now. Connections in TIME_WAIT do not count as use."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
