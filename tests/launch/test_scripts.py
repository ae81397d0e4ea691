"""Every script answers `--help` and `--version` at once, also in a checkout in which nothing is installed yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kimi_k2_serving import __version__
from kimi_k2_serving.launch.layout import checkout

ROOT = checkout().root
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if os.access(path, os.X_OK))


def ask(folder: Path, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    script = folder / "scripts" / name
    return subprocess.run([script, *words], capture_output=True, text=True, timeout=30, env=environment, cwd="/")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as `git clone` makes it: without .venv."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("scripts", "backend"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_fresh_checkout_explains_every_script(fresh: Path, name: str) -> None:
    for flag in ("--help", "-h"):
        asked = ask(fresh, name, flag)
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout.startswith(f"usage: scripts/{name}")
        assert len(asked.stdout.splitlines()) >= 3
    assert not (fresh / ".venv").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_tells_the_version(fresh: Path, name: str) -> None:
    asked = ask(fresh, name, "--version")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"kimi-k2-triton {__version__}\n", "")


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The PATH of a machine whose only Python is too new, such as Debian 13."""
    for name in ("bash", "dirname", "env", "basename"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    for name in ("python3.11", "python3.12", "python3"):
        program(tmp_path, name, "exit 1")
    return tmp_path


def test_without_a_usable_python_serve_says_what_to_install(bare: Path) -> None:
    asked = ask(ROOT, "serve", "--version", PATH=str(bare))
    assert asked.returncode == 2
    assert asked.stderr.count("\n") == 1
    assert "uv python install 3.12" in asked.stderr


def test_without_a_usable_python_serve_takes_uv_s(bare: Path) -> None:
    """The stand-in for uv knows only the two commands that are needed, and installs nothing."""
    program(bare, "brought", 'echo "$PYTHONPATH $*"')
    program(
        bare,
        "uv",
        f'case "$*" in\n"python install 3.12") touch {bare}/installed ;;\n'
        f'"python find --managed-python 3.12") echo {bare}/brought ;;\n*) exit 9 ;;\nesac',
    )
    asked = ask(ROOT, "serve", "--checkpoint", "a b", PATH=f"{bare}:/usr/bin:/bin")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout == f"{ROOT}/backend -m kimi_k2_serving.launch --checkpoint a b\n"
