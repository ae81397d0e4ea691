"""Triton's backend directory holds the wheel's Python backend and our model.py, and no stale file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kimi_k2_serving.launch import backends
from kimi_k2_serving.launch.backends import Wheel

STUB = f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    made = Wheel(tmp_path / "wheel", tmp_path / "libs")
    for name in ("backends/python/libtriton_python.so", "backends/python/triton_python_backend_utils.py", STUB):
        path = made.triton / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (made.triton / STUB).chmod(0o755)
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "model.py").write_text("first")
    return made


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_both_backends_are_there_with_the_stub_of_this_python(wheel: Wheel, tmp_path: Path) -> None:
    target = tmp_path / "backends"
    backends.assemble(target, wheel, tmp_path / "sglang")
    assert content(target) == {
        "python/libtriton_python.so": "backends/python/libtriton_python.so",
        "python/triton_python_backend_utils.py": "backends/python/triton_python_backend_utils.py",
        "python/triton_python_backend_stub": STUB,
        "sglang/model.py": "first",
    }
    assert os.access(target / "python" / "triton_python_backend_stub", os.X_OK)


def test_only_what_changed_is_replaced_and_an_open_file_keeps_its_content(wheel: Wheel, tmp_path: Path) -> None:
    target = tmp_path / "backends"
    backends.assemble(target, wheel, tmp_path / "sglang")
    library = (target / "python" / "libtriton_python.so").stat().st_ino
    with (target / "sglang" / "model.py").open() as held:
        (tmp_path / "sglang" / "model.py").write_text("other")
        backends.assemble(target, wheel, tmp_path / "sglang")
        assert held.read() == "first"
    assert (target / "sglang" / "model.py").read_text() == "other"
    assert (target / "python" / "libtriton_python.so").stat().st_ino == library


def test_other_files_are_removed(wheel: Wheel, tmp_path: Path) -> None:
    target = tmp_path / "backends"
    (target / "sglang" / "__pycache__").mkdir(parents=True)
    (target / "sglang" / "old.py").touch()
    backends.assemble(target, wheel, tmp_path / "sglang")
    assert [path.name for path in (target / "sglang").iterdir()] == ["model.py"]


def test_the_installed_wheel_is_found_without_importing_it() -> None:
    found = backends.wheel()
    assert found.server.is_file()
    assert found.libraries.is_dir()
    assert all(path.is_file() for path in found.python_backend().values())
    assert "pytriton" not in sys.modules
