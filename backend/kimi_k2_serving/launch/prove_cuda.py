"""`scripts/prove-cuda`: proves that kernels can be compiled with what the engine will find when it runs.

Without an option: in the image, with its environment, against the installed torch; the image's build runs it. With
`--lock FILE`: installs the toolkit's wheels of that lock into a temporary directory, some 110 MB, and proves these;
that needs neither a GPU nor the rest of the image. Exit code 1 names what is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kimi_k2_serving.launch import lock
from kimi_k2_serving.launch.toolkit import ARCHITECTURES, complete, find_toolkit, nvcc_release, problems_of
from kimi_k2_serving.settings import inherited

WHEELS = ("nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-nvvm")
# torch depends on this package in the version of the release that it is built with.
RELEASE_OF_TORCH = "cuda-toolkit"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove-cuda", description=__doc__.splitlines()[0])
    parser.add_argument("--lock", type=Path, metavar="FILE", help="prove the wheels of this lock")
    parser.add_argument("--complete", action="store_true", help="first add what linkers look for to the toolkit")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    home, problems = of_lock(options.lock) if options.lock else of_environment(options.complete)
    for problem in problems:
        print(f"prove-cuda: {problem}", file=sys.stderr)
    if not problems:
        targets = " and ".join(f"sm_{each}" for each in ARCHITECTURES)
        print(f"prove-cuda: {home} compiles and links CCCL for {targets}, in {time.monotonic() - begun:.0f} s")
    return 1 if problems else 0


def of_environment(completed: bool) -> tuple[str, list[str]]:
    home = find_toolkit(inherited())
    if completed and home.is_dir():
        complete(home)
    release = torch_release()
    if release is None:
        return str(home), ["the installed torch is not built for CUDA, so it needs no toolkit: use --lock FILE here"]
    return str(home), problems_of(home, release, vendored_cccl())


def torch_release() -> str | None:
    import torch

    return str(torch.version.cuda) if torch.version.cuda else None


def vendored_cccl() -> list[Path]:
    """flashinfer's own copy of CCCL, which it puts before the toolkit's."""
    spec = importlib.util.find_spec("flashinfer")
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(next(iter(spec.submodule_search_locations))) / "data" / "cccl"
    return [path for path in (root / "cub", root / "libcudacxx" / "include", root / "thrust") if path.is_dir()]


def of_lock(path: Path) -> tuple[str, list[str]]:
    pins = {pin.name: pin for pin in lock.read_pins(path.read_text(encoding="utf-8"))}
    release = ".".join(pins[RELEASE_OF_TORCH].version.split(".")[:2])
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "toolkit.txt"
        chosen.write_text(lock.write_pins(pins[name] for name in WHEELS), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        secure = ["--require-hashes", "--only-binary", ":all:", "--target", f"{folder}/packages", "-r", str(chosen)]
        if subprocess.run([*pip, *secure]).returncode:
            return path.name, [f"the toolkit of {path.name} could not be installed; pip says why"]
        home = Path(folder) / "packages" / "nvidia" / "cu13"
        complete(home)
        return f"the toolkit of {path.name}, nvcc {nvcc_release(home)},", problems_of(home, release)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
