"""The lock: requirement files in which every line is `name==version` and the hashes of the files that may be installed.

`read_pins` and `write_pins` are pure. `python -m kimi_k2_serving.launch.lock` (scripts/lock) rewrites the files from
the `.in` lists: uv looks up the files of each version, and the lock keeps those that CPython 3.11 or 3.12 on x86_64
Linux can install. A lock names no index, address or host. No dependency is resolved: the lists name every package that
is needed, indirect ones too, and a test checks that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.launch.layout import checkout

NAMES = ("serve-cpu", "torch-plain", "test", "clients", "agents", "evaluation", "serve-gpu")
# The oldest Python that installs each lock; the image of the Dockerfile has only 3.12.
PYTHON = {name: "3.12" if name == "serve-gpu" else "3.11" for name in NAMES}
INTERPRETERS = frozenset({"cp311", "cp312", "py3", "py37", "py311", "py312"})
GLIBC_MINOR = 35  # the launcher accepts glibc 2.35 and later

# uv's registry has no CPU builds of PyTorch. These are the wheels for cp311 and cp312, manylinux_2_28_x86_64. The first
# hash was computed from the file; the second is the one in PyTorch's CPU index and in several public lock files.
TORCH_CPU = (
    "torch",
    "2.13.0+cpu",
    (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    ),
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution. `hashes` are the sorted sha256 digests of its usable files."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)))


def read_pins(text: str) -> list[Pin]:
    """The pins of a lock file, in order. Raise ValueError for a line that is neither a pin nor a comment."""
    pins = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, *hashes = line.split(" ")
        name, equals, version = requirement.partition("==")
        if not (name and equals and version and hashes) or any(not h.startswith("--hash=sha256:") for h in hashes):
            raise ValueError(f"not a hashed pin: {line[:80]}")
        pins.append(Pin(name, version, tuple(h.removeprefix("--hash=sha256:") for h in hashes)))
    return pins


def write_pins(pins: Iterable[Pin]) -> str:
    """The text of a lock file: `pins`, one per line, sorted by name."""
    lines = [str(pin) for pin in sorted(pins, key=lambda pin: pin.name)]
    return "\n".join(("# Written by scripts/lock. Install: pip install --require-hashes --no-deps -r FILE", *lines, ""))


def usable(filename: str) -> bool:
    """Whether CPython 3.11 or 3.12 on x86_64 Linux with the oldest accepted glibc can install this wheel."""
    interpreters, abi, platforms = filename.removesuffix(".whl").split("-")[-3:]
    stable = "abi3" in abi.split(".")
    if not stable and INTERPRETERS.isdisjoint(interpreters.split(".")):
        return False
    if stable and int(interpreters.split(".")[-1].removeprefix("cp3") or 0) > 12:
        return False
    return any(_runs_on_linux(platform) for platform in platforms.split("."))


def _runs_on_linux(platform: str) -> bool:
    if platform == "any":
        return True
    if not platform.endswith("_x86_64"):
        return False
    if platform.startswith("manylinux_2_"):
        return int(platform.split("_")[2]) <= GLIBC_MINOR
    return platform.startswith(("manylinux1", "manylinux2010", "manylinux2014"))


def _pin(package: dict[str, Any]) -> Pin:
    """Turn one entry of uv's pylock.toml into a pin of its usable wheels. Raise ValueError if it has none."""
    wheels = package.get("wheels", ())
    hashes = [wheel["hashes"]["sha256"] for wheel in wheels if usable(wheel["url"].rsplit("/", 1)[-1])]
    if not hashes:
        raise ValueError(f"{package['name']}=={package['version']} has no wheel for x86_64 Linux")
    return Pin(package["name"], package["version"], tuple(sorted(hashes)))


def compile_lock(uv: str, source: Path, *, python: str) -> list[Pin]:
    """Look up the files of every version in the list `source` with uv. Raise CalledProcessError if uv fails."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "pylock.toml"
        command = [uv, "pip", "compile", str(source), "--no-deps", "--universal", "--python-version", python, "--quiet"]
        subprocess.run([*command, "--format", "pylock.toml", "-o", str(answer)], check=True)
        return [_pin(package) for package in tomllib.loads(answer.read_text(encoding="utf-8"))["packages"]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/lock", description="Rewrite requirements/*.txt from *.in.")
    parser.add_argument("--uv", default="uv", metavar="PATH", help="the uv program (pip install uv)")
    options = parser.parse_args()
    folder = checkout().requirements
    for name in NAMES:
        pins = compile_lock(options.uv, folder / f"{name}.in", python=PYTHON[name])
        if name == "serve-cpu":
            pins.append(Pin(TORCH_CPU[0], TORCH_CPU[1], TORCH_CPU[2]))
        (folder / f"{name}.txt").write_text(write_pins(pins), encoding="utf-8")
        print(f"requirements/{name}.txt: {len(pins)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
