"""Checks whether the server can run on this machine with these flags, before anything is installed or started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kimi_k2_serving.launch.cli import DEMO_PRESETS, Options
from kimi_k2_serving.launch.layout import Layout
from kimi_k2_serving.launch.machine import Gpu, Machine
from kimi_k2_serving.launch.refusal import Refusal
from kimi_k2_serving.launch.running import RunningServer, servers
from kimi_k2_serving.plan.hardware import find_accelerator

PYTHONS = ((3, 11), (3, 12))
GLIBC = (2, 35)  # the tritonserver and stubs of nvidia-pytriton 0.7.0 are built on Ubuntu 22.04
INSTALL_BYTES = 6 * 10**9  # 3.3 GB installed, plus pip's downloads during the installation

IMAGE = "kimi-k2-triton"  # docker build -t kimi-k2-triton .

# Rows: (preset, its GPU, GPUs per machine, machines). The first row that fits is suggested. Fewer bytes than this share
# of what the planner knows of the GPU would take the room of the cache.
GPU_PRESETS = (
    ("gb200-16", "gb200", 4, 4),
    ("b200-8", "b200", 8, 1),
    ("b200-8-throughput", "b200", 8, 1),
    ("b200-8-long", "b200", 8, 1),
    ("h200-8", "h200", 8, 1),
    ("h200-16", "h200", 8, 2),
    ("h100-16", "h100", 8, 2),
)
LEAST_MEMORY = 0.99


def check_machine(
    options: Options,
    machine: Machine,
    layout: Layout,
    *,
    installed: bool,
    port_is_free: Callable[[str, int], bool],
) -> list[str]:
    """Return the warnings to print, in order. Raise Refusal for the first obstacle found."""
    notices = _check_gpu(options, machine)
    _check_machine(machine)
    _check_paths(options, layout)
    if not installed and machine.free_disk < INSTALL_BYTES:
        raise Refusal(
            f"{machine.free_disk / 1e9:.1f} GB free disk",
            f"the installation needs up to {INSTALL_BYTES / 1e9:.0f} GB while it runs",
            "free some space, or move the checkout to a larger disk",
        )
    if options.starts:
        check_ports(options, port_is_free, servers(layout.run))
    if options.loopback or not options.insecure:
        return notices
    return [
        *notices,
        f"serve: warning: other machines can reach {options.host}, and Triton's own ports have no authentication",
    ]


def check_ports(
    options: Options, port_is_free: Callable[[str, int], bool], running: Sequence[RunningServer] = ()
) -> None:
    """Raise Refusal for a port in use. `running` are the servers of this checkout: one of them may use it."""
    for flag, port in options.ports.items():
        host = options.host_of(flag)
        own = next((server for server in running if port in server.ports), None)
        if own is not None:
            state = "runs already" if own.is_ready else "is starting"
            raise Refusal(
                f"the server of this directory {state} (pid {own.pid}) at {own.url}",
                f"it uses port {port}",
                f"use it, stop it with `kill {own.pid}`, or choose other ports (scripts/serve --help has an example)",
            )
        if not port_is_free(host, port):
            raise Refusal(
                f"{flag} {port}", f"another process uses this port at {host}", f"choose another with {flag} PORT"
            )


def _check_machine(machine: Machine) -> None:
    if machine.python not in PYTHONS:
        raise Refusal(
            "Python {}.{}".format(*machine.python),
            "the pinned stack is for 3.11 and 3.12",
            "install python3.12 with libpython3.12, or uv, with which scripts/serve installs a Python",
        )
    if machine.architecture != "x86_64":
        raise Refusal(
            machine.architecture, "this Triton build is for x86_64", "use an x86_64 machine, or the container image"
        )
    if "avx2" not in machine.cpu_flags:
        raise Refusal("no AVX2", "PyTorch's CPU build and the engine need it", "use a CPU (or VM type) that has AVX2")
    if machine.glibc < GLIBC:
        seen = "glibc {}.{}".format(*machine.glibc) if machine.glibc != (0, 0) else "no glibc"
        raise Refusal(seen, "Triton's Python stub needs 2.35", "use Debian 12, Ubuntu 22.04 or later, or the container")
    if machine.libpython is None:
        raise Refusal(
            "this Python has no libpython shared library",
            "Triton's Python stub loads it",
            "install one: apt-get install libpython{}.{}, or pyenv with PYTHON_CONFIGURE_OPTS=--enable-shared".format(
                *machine.python
            ),
        )


def _check_paths(options: Options, layout: Layout) -> None:
    if options.checkpoint is not None:
        given, fix = f"--checkpoint {options.checkpoint}", "give the directory of a Kimi K2 checkpoint"
        if not options.checkpoint.is_dir():
            raise Refusal(given, "no such directory", fix)
        if not (options.checkpoint / "config.json").is_file():
            raise Refusal(given, "the directory has no config.json", fix)
    if options.preset is not None:
        known = sorted({*DEMO_PRESETS, *(path.stem for path in layout.presets.glob("*.yaml"))})
        if options.preset not in known:
            raise Refusal(f"--preset {options.preset}", "no such preset", f"one of: {', '.join(known)}")
        if options.preset not in DEMO_PRESETS and options.checkpoint is None:
            raise Refusal(f"--preset {options.preset}", "this preset needs a real checkpoint", "add --checkpoint DIR")
    if options.api_key_file is not None:
        _check_key_file(options.api_key_file)
    if not (layout.model_repository / "kimi_k2" / "config.pbtxt").is_file():
        raise Refusal("no model_repository/kimi_k2", "the checkout is incomplete", "clone the repository again")


def _check_key_file(path: Path) -> None:
    if not path.is_file():
        raise Refusal(f"--api-key-file {path}", "no such file", "write it with one key per line")
    if path.stat().st_mode & 0o077:
        raise Refusal(f"--api-key-file {path}", "other users of this machine have access to it", f"chmod 600 {path}")
    try:
        keys = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refusal(f"--api-key-file {path}", f"it cannot be read: {why}", "write one key per line into it") from None
    if not keys:
        raise Refusal(f"--api-key-file {path}", "the file has no key", "write one key per line into it")


def _check_gpu(options: Options, machine: Machine) -> list[str]:
    """The notice for a demo on a machine with a GPU. Raise Refusal for a checkpoint that the CPU stack would serve by
    mistake.
    """
    if not machine.nvidia or options.cpu:
        return []
    if options.checkpoint is None:
        return ["serve: notice: this machine's NVIDIA GPU is not used: the demo model runs on the CPU"]
    seen, preset = fitting_preset(machine.gpus)
    run = (
        f"docker run --gpus all --shm-size 32g -v DIR:/checkpoint:ro -p 127.0.0.1:8000-8002:8000-8002 "
        f"-e KIMI_K2_PRESET={preset} {IMAGE}"
    )
    raise Refusal(
        f"NVIDIA GPU ({seen})", "this command installs the CPU stack", f"use {run}; or add --cpu to use the CPU"
    )


def fitting_preset(gpus: Sequence[Gpu]) -> tuple[str, str]:
    """Return (a description of the GPUs, the preset that fits them or "NAME" if none does)."""
    if not gpus:
        return "nvidia-smi gives no information", "NAME"
    memory = min(gpu.memory for gpu in gpus)
    seen = f"{len(gpus)} x {gpus[0].name}, {memory // 2**30} GiB each"
    fitting = [
        (preset, f"{preset} fits" + (f" on {machines} such machines" if machines > 1 else ""), accelerator)
        for preset, accelerator, count, machines in GPU_PRESETS
        if len(gpus) >= count and memory >= LEAST_MEMORY * find_accelerator(accelerator).memory_bytes
    ]
    # A larger GPU has room for a smaller one's presets, too, but those were made for the smaller one.
    own = [(preset, says) for preset, says, accelerator in fitting if accelerator == fitting[0][2]]
    if own:
        return f"{seen}: preset {', '.join(says for _, says in own)}", own[0][0]
    return f"{seen}: less than Kimi K2 needs, which is 8 x 141 GB on one machine or 16 x 80 GB on two", "NAME"
