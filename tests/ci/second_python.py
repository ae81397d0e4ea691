"""Runs the suites that need neither a server nor PyTorch on the other Python that the project supports.

It takes a Python 3.12 (or 3.11, beside 3.12) of PATH or pyenv; without one the suites are skipped, and a line says so.
Its environment, .cache/venv-py3.12, has the locked packages without PyTorch, whose CPU build many registries lack.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ci.steps import SECOND
from tests.support import tally
from tests.support.tally import Count, suite_of

ROOT = Path(__file__).parents[2]
OTHER = "3.11" if sys.version_info[:2] == (3, 12) else "3.12"
# These need neither PyTorch nor what imports it: SGLang, xgrammar.
SUITES = SECOND
NEEDLESS = (
    *("torch", "torchvision", "torch-memory-saver", "triton", "sympy", "networkx", "scipy"),
    *("sglang", "xgrammar", "nvidia-pytriton", "transformers", "playwright", "mypy", "ruff"),
)


def main() -> int:
    python = find_python(OTHER)
    if python is None:
        print(f"there is no Python {OTHER} here: not run on it")
        tally.record(*(Count(suite, skipped=1) for suite in SUITES))
        return 0
    own = prepare(python)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        suites = [f"tests/{suite}" for suite in SUITES]
        command = [str(own), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", f"--junitxml={report}", *suites]
        paths = os.pathsep.join(str(ROOT / name) for name in ("backend", "client"))
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        code = subprocess.run([*command, "-m", "not server and not slow"], cwd=ROOT, env=environment).returncode
        tally.record(*tally.of_report(report, suite_of))
    return code


def find_python(version: str) -> Path | None:
    """A Python of this version that runs; a shim of pyenv for a version that is not chosen does not."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = shutil.which(f"python{version}")
    for candidate in (*([found] if found else []), *installed):
        if subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return Path(candidate)
    return None


def prepare(python: Path) -> Path:
    """The Python of the environment, which is made if it is missing or of another lock."""
    locks = [(ROOT / "requirements" / f"{name}.txt").read_text("utf-8") for name in ("serve-cpu", "test")]
    pins = [line for text in locks for line in text.splitlines() if line.partition("==")[0] not in NEEDLESS]
    folder = ROOT / ".cache" / f"venv-py{OTHER}"
    stamp, own = folder / ".sha256", folder / "bin" / "python"
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text("ascii") == digest:
        return own
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
    flags = ("--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--only-binary", ":all:")
    subprocess.run([own, "-m", "pip", "install", *flags, "-r", requirements], check=True)
    stamp.write_text(digest, "ascii")
    return own


if __name__ == "__main__":
    sys.exit(main())
