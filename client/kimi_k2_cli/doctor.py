"""`kimi-k2 doctor`: named checks of this machine. Each says what was found and how to mend it.

Exit code 1: a check found a problem. Checks that do not apply to this machine, such as NCCL without a GPU, are skipped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kimi_k2_cli.checkpoint import REPOSITORY
from kimi_k2_cli.checkpoint_files import checksum_problems, incomplete_files
from kimi_k2_cli.host import Host, observe_host
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.launch import preflight

Status = Literal["ok", "warning", "problem", "skipped"]
GIB = 2**30
# Triton 24.10 with the stubs of nvidia-pytriton 0.7.0, and the SGLang that the backend is written for.
PAIR = {"sglang": "0.5.23", "nvidia-pytriton": "0.7.0"}
# SGLang and NCCL exchange tensors between processes in shared memory: 1 GiB for a CPU, 16 GiB for eight GPUs.
SHM_BYTES = {False: GIB, True: 16 * GIB}
OPEN_FILES = 65_536
PORTS = {"HTTP": 8000, "gRPC": 8001, "metrics": 8002, "frontend": 9000}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`found`: what was seen. `fix`: what to do, "" if nothing is wrong."""

    name: str
    status: Status
    found: str
    fix: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  kimi-k2 doctor\n"
        "  kimi-k2 doctor --checkpoint /models/Kimi-K2-Instruct-0905 --nodes 2\n"
        "  kimi-k2 doctor --checkpoint DIR --checksums SHA256SUMS     reads every file: minutes\n"
        "Exit code 1: there is a problem."
    )
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="check this checkpoint, too")
    parser.add_argument("--checksums", metavar="FILE", type=Path, help="its SHA-256 sums, as sha256sum writes them")
    parser.add_argument("--nodes", metavar="N", type=int, default=1, help="machines of this kind (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    host = observe_host(REPOSITORY if (REPOSITORY / "scripts").is_dir() else Path.cwd(), PORTS)
    found = [*machine_checks(host, args.nodes)]
    if args.checkpoint is not None:
        found += checkpoint_checks(args.checkpoint, args.checksums)
    problems = sum(each.status == "problem" for each in found)
    if args.json:
        print(json.dumps({"healthy": not problems, "checks": [asdict(each) for each in found]}, indent=2))
    else:
        for each in found:
            print(f"{each.status:<8} {each.name:<12} {each.found}" + (f"\n{'':<21} -> {each.fix}" if each.fix else ""))
        print(f"\n{problems} problems" if problems != 1 else "\n1 problem")
    return 1 if problems else 0


def machine_checks(host: Host, nodes: int) -> Iterator[Diagnosis]:
    machine = host.machine
    version = "{}.{}".format(*machine.python)
    fits = machine.python in preflight.PYTHONS
    yield judged("python", fits, version, "install Python 3.11 or 3.12, or uv, which scripts/serve then uses")
    library = str(machine.libpython or "none")
    yield judged("libpython", machine.libpython is not None, library, f"apt-get install libpython{version}")
    glibc = "{}.{}".format(*machine.glibc) if machine.glibc != (0, 0) else "another C library"
    yield judged("glibc", machine.glibc >= preflight.GLIBC, glibc, "use Debian 12, Ubuntu 22.04 or later, or the image")
    is_x86 = machine.architecture == "x86_64"
    yield judged("processor", is_x86, machine.architecture, "this Triton build is for x86_64: use the image")
    avx2 = "avx2" in machine.cpu_flags
    yield judged("AVX2", avx2, "yes" if avx2 else "no", "use a CPU, or a VM type, that has AVX2")
    yield pair(host)
    yield from ports(host)
    yield from gpus(host, nodes)
    need = SHM_BYTES[machine.nvidia]
    yield judged(
        "shm",
        host.shm_bytes >= need,
        f"{host.shm_bytes / GIB:.1f} GiB in /dev/shm",
        f"docker run --shm-size {need // GIB}g",
    )
    files = host.open_files
    yield judged("open files", files >= OPEN_FILES, f"{files:,}", f"ulimit -n {OPEN_FILES}", otherwise="warning")


def judged(name: str, good: bool, found: str, fix: str, *, otherwise: Status = "problem") -> Diagnosis:
    return Diagnosis(name, "ok", found) if good else Diagnosis(name, otherwise, found, fix)


def pair(host: Host) -> Diagnosis:
    """Whether SGLang and Triton have the versions that were tested together."""
    versions = {name: host.versions.get(name) for name in PAIR}
    told = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    if not any(versions.values()):
        return Diagnosis("packages", "warning", told, "scripts/serve installs them; the client needs neither")
    return judged("packages", versions == PAIR, told, "scripts/serve installs the tested pair")


def ports(host: Host) -> Iterator[Diagnosis]:
    for name, port in PORTS.items():
        if port in host.own_ports:
            yield Diagnosis(f"port {port}", "ok", f"{name}: the server of this checkout")
        else:
            fix = f"stop what listens there, or start with --{name.lower()}-port PORT"
            free = port not in host.busy_ports
            yield judged(f"port {port}", free, f"{name}: {'free' if free else 'in use'}", fix, otherwise="warning")


def gpus(host: Host, nodes: int) -> Iterator[Diagnosis]:
    machine = host.machine
    if not machine.nvidia:
        yield Diagnosis("GPUs", "skipped", "none: the demo model runs on the CPU")
        return
    seen, preset = preflight.fitting_preset(machine.gpus)
    need = next((count for name, _, _, count in preflight.GPU_PRESETS if name == preset), 0)
    if need:
        fix = f"{preset} needs {need} such machines; give --nodes {need} if there are as many"
        yield judged("GPUs", nodes >= need, seen, fix)
    else:
        yield Diagnosis("GPUs", "problem", seen, "kimi-k2 plan says what fits; the demo runs on the CPU")
    fix = "install the CUDA toolkit of the image, and set CUDA_HOME (scripts/prove-cuda tries it)"
    yield judged("CUDA", host.nvcc is not None, f"nvcc {host.nvcc or 'missing'}", fix)
    yield judged(
        "NCCL", host.nccl, "found" if host.nccl else "missing", "it comes with PyTorch's CUDA build: use the image"
    )
    links = ", ".join(host.infiniband) or "none"
    fix = "load the drivers of the fabric; without it NCCL uses TCP, several times slower"
    if nodes > 1 or need > 1:
        yield judged("InfiniBand", bool(host.infiniband), links, fix)
    else:
        yield Diagnosis("InfiniBand", "skipped", "one machine needs none")
    locked = host.locked_bytes < 0 or host.locked_bytes >= 64 * GIB
    told = "unlimited" if host.locked_bytes < 0 else f"{host.locked_bytes // 1024:,} KiB"
    yield judged("memlock", locked, told, "docker run --ulimit memlock=-1", otherwise="warning")


def checkpoint_checks(path: Path, checksums: Path | None) -> list[Diagnosis]:
    """The checks of a checkpoint: its files, their checksums, and whether this server renders its chat template."""
    from kimi_k2_serving.core.tokens import Vocabulary
    from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2
    from kimi_k2_serving.engine.template_probe import form_of

    try:
        require_k2(inspect_checkpoint(path))
    except ServingError as error:
        return [Diagnosis("checkpoint", "problem", error.detail, "give the directory of a Kimi K2 checkpoint")]
    missing = incomplete_files(path)
    told = "; ".join(missing[:3]) if missing else "all files of the index, complete"
    found = [judged("checkpoint", not missing, told, "download these files again")]
    if checksums is None:
        found.append(Diagnosis("checksum", "skipped", "give --checksums FILE to read and compare every file"))
    else:
        wrong = checksum_problems(path, checksums)
        found.append(judged("checksum", not wrong, "; ".join(wrong[:3]) or "all equal", "download these files again"))
    try:
        form = form_of(path, sorts=Vocabulary.load(path).sort_tool_keys)
        found.append(Diagnosis("template", "ok", f"rendered as this server does ({form})"[:160]))
    except ServingError as error:
        fix = "use the chat template of a revision that this server knows (docs/kimi_k2_format.md)"
        found.append(Diagnosis("template", "problem", error.detail, fix))
    return found
