"""The backend directory that Triton loads from: `python/` from the nvidia-pytriton wheel, `sglang/` from this checkout.

A Python-based backend is a `model.py` in a directory with the backend's name. Triton runs it with the library and the
stub of the python backend, so both directories lie side by side. Files are copied, not linked, and only if their
content differs. A rename puts each in place, so a running server keeps the file that it has open.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kimi_k2_serving.launch.refusal import Failure


@dataclass(frozen=True, slots=True)
class Wheel:
    """The paths of Triton in the installed nvidia-pytriton wheel."""

    triton: Path
    libraries: Path

    @property
    def server(self) -> Path:
        return self.triton / "bin" / "tritonserver"

    def python_backend(self) -> dict[str, Path]:
        """File name in the backend directory -> file in the wheel. The stub is the one for the running Python."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        backend = self.triton / "backends" / "python"
        return {
            "libtriton_python.so": backend / "libtriton_python.so",
            "triton_python_backend_utils.py": backend / "triton_python_backend_utils.py",
            "triton_python_backend_stub": self.triton / "python_backend_stubs" / version / "triton_python_backend_stub",
        }


def wheel() -> Wheel:
    """Find the installed wheel without importing it. Raise Failure if it is missing."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise Failure("nvidia-pytriton is missing from .venv; remove .venv and start again")
    package = Path(spec.origin).parent
    return Wheel(triton=package / "tritonserver", libraries=package.parent / "nvidia_pytriton.libs")


def assemble(target: Path, wheel: Wheel, sglang: Path) -> None:
    """Fill `target` with both backends and remove all other files. `sglang` is the folder with our model.py."""
    wanted = {"python": wheel.python_backend(), "sglang": {path.name: path for path in sorted(sglang.glob("*.py"))}}
    for name, files in wanted.items():
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        _copy_changed(files, folder)
        for stray in folder.iterdir():
            if stray.name not in files:
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def _copy_changed(files: Mapping[str, Path], folder: Path) -> None:
    for name, source in files.items():
        target = folder / name
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            continue
        fresh = folder / f".{name}.{os.getpid()}"
        shutil.copy(source, fresh)
        os.replace(fresh, target)
