"""The client alone, as `pip install` brings it: a wheel in an empty environment, without torch and SGLang."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from kimi_k2_serving import __version__
from kimi_k2_serving.launch.layout import checkout

MOST_BYTES = 200 * 2**20
ROOT = checkout().root


def pip(python: Path | str, *words: str) -> None:
    command = [str(python), "-m", "pip", *words, "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment in which only the wheel and its dependencies are."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("backend", "client"):
        shutil.copytree(
            ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source"))
    venv.create(folder / "venv", with_pip=True)
    (wheel,) = folder.glob("*.whl")
    pip(folder / "venv" / "bin" / "python", "install", str(wheel))
    return folder / "venv" / "bin"


@pytest.mark.slow
def test_the_wheel_alone_is_a_client_and_a_command_without_the_server_s_packages(alone: Path) -> None:
    code = (
        "import importlib.util, kimi_k2_client as k; k.Client('http://127.0.0.1:1').close();"
        "k.Client('grpc://127.0.0.1:1').close(); k.AsyncClient;"
        "heavy = [n for n in ('torch', 'sglang', 'transformers', 'xgrammar') if importlib.util.find_spec(n)];"
        "print(k.__version__, heavy)"
    )
    told = subprocess.run([alone / "python", "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert told.stdout == f"{__version__} []\n"
    for words in (("--version",), ("--help",), ("plan", "--gpu", "b200", "--gpus", "8"), ("chat", "--help")):
        done = subprocess.run([alone / "kimi-k2", *words], capture_output=True, text=True, cwd="/")
        assert (done.returncode, done.stderr) == (0, ""), words


@pytest.mark.slow
def test_it_takes_less_than_200_mb(alone: Path) -> None:
    packages = alone.parent / "lib"
    size = sum(path.lstat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    pip_own = next(packages.rglob("site-packages/pip"))
    own = sum(path.lstat().st_size for path in pip_own.rglob("*") if path.is_file())
    print(f"{(size - own) / 2**20:.0f} MiB")
    assert size - own < MOST_BYTES
