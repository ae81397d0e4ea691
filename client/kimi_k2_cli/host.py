"""The facts about this machine that `doctor` checks: the launcher's, and those that matter for GPUs and many
connections.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_cli.server import here
from kimi_k2_serving.launch.machine import Machine, observe, port_is_free
from kimi_k2_serving.launch.toolkit import find_toolkit, nvcc_release
from kimi_k2_serving.settings import inherited


@dataclass(frozen=True, slots=True)
class Host:
    """`own_ports` belong to servers of this checkout. `locked_bytes`: negative without a limit. `nvcc`: its release."""

    machine: Machine
    versions: Mapping[str, str]
    own_ports: frozenset[int]
    busy_ports: frozenset[int]
    shm_bytes: int
    open_files: int
    locked_bytes: int
    nvcc: str | None
    nccl: bool
    infiniband: tuple[str, ...]


def observe_host(
    root: Path, ports: Mapping[str, int], *, sys: Path = Path("/sys"), shm: Path = Path("/dev/shm")
) -> Host:
    machine = observe(root)
    own = frozenset(port for server in here() for port in server.ports)
    return Host(
        machine=machine,
        versions={name: version for name in ("sglang", "nvidia-pytriton") if (version := _version(name))},
        own_ports=own,
        busy_ports=frozenset(port for port in ports.values() if not port_is_free("127.0.0.1", port)),
        shm_bytes=_size(shm),
        open_files=_limit(resource.RLIMIT_NOFILE),
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
        nvcc=nvcc_release(find_toolkit(inherited())) if machine.nvidia else None,
        nccl=importlib.util.find_spec("nvidia") is not None and _has_nccl(),
        infiniband=tuple(sorted(each.name for each in (sys / "class" / "infiniband").glob("*"))),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_nccl() -> bool:
    return importlib.util.find_spec("nvidia.nccl") is not None


def _size(path: Path) -> int:
    try:
        filesystem = os.statvfs(path)
    except OSError:
        return 0
    return filesystem.f_blocks * filesystem.f_frsize


def _limit(which: int) -> int:
    """The hard limit, to which a process may raise its own limit. Negative for none."""
    _, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY:
        return -1 if which == resource.RLIMIT_MEMLOCK else 2**31
    return hard
