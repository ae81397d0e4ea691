"""The virtual environment. A stamp holds a digest of its sources; while it matches, nothing is installed again.

Standard library only. pip checks every file against the lock's hashes and installs wheels only, so no code of a package
runs during the installation. This package itself is installed from the checkout, offline.

    python -m kimi_k2_serving.launch.install [--tests]     # only the environment, for scripts/test and CI
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kimi_k2_serving.engine import linux
from kimi_k2_serving.launch import lock
from kimi_k2_serving.launch.layout import Layout, checkout
from kimi_k2_serving.launch.progress import Progress, read_from, tail
from kimi_k2_serving.launch.refusal import Failure, Refusal
from kimi_k2_serving.settings import inherited

_SECURE = ("--require-hashes", "--no-deps", "--only-binary", ":all:")
_OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index")
_LOOK_SECONDS = 0.5
_NO_TORCH = "No matching distribution found for torch"


@dataclass(frozen=True, slots=True)
class Torch:
    """The sources of PyTorch: pip's configured index, then `index` if given; or the registry's CUDA wheel."""

    index: str | None = None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """A group of pins that are installed together. Its stamp is the file `.NAME.sha256` in the environment."""

    name: str
    pins: tuple[lock.Pin, ...]

    def digest(self) -> str:
        content = f"{sys.version_info[:2]} {sys.base_prefix}\n{lock.write_pins(self.pins)}"
        return hashlib.sha256(content.encode()).hexdigest()

    def stamp(self, layout: Layout) -> Path:
        return layout.venv / f".{self.name}.sha256"

    def done(self, layout: Layout) -> bool:
        stamp = self.stamp(layout)
        return stamp.is_file() and stamp.read_text(encoding="ascii") == self.digest()


def _pins(layout: Layout, name: str) -> tuple[lock.Pin, ...]:
    return tuple(lock.read_pins((layout.requirements / f"{name}.txt").read_text(encoding="utf-8")))


def _steps(layout: Layout, torch: Torch, *, tests: bool) -> list[_Step]:
    """The steps in order. PyTorch comes first, so that the user learns after a second if no index has it."""
    stack = _pins(layout, "serve-cpu")
    cpu_torch = tuple(pin for pin in stack if pin.name == "torch")
    plain = _pins(layout, "torch-plain")
    chosen_plain = torch.plain or _Step("torch", plain).done(layout)
    steps = [
        _Step("torch", plain if chosen_plain else cpu_torch),
        _Step("serve-cpu", tuple(pin for pin in stack if pin.name != "torch")),
    ]
    return [*steps, _Step("test", _pins(layout, "test"))] if tests else steps


def installed(layout: Layout, torch: Torch, *, tests: bool = False) -> bool:
    """Whether every stamp matches. Reads the locks and the stamps, which takes some milliseconds."""
    return _own(layout).done(layout) and all(step.done(layout) for step in _steps(layout, torch, tests=tests))


def _own(layout: Layout) -> _Step:
    """This package as a step. Its pin is a digest of pyproject.toml, which names its packages and entry points."""
    digest = hashlib.sha256((layout.root / "pyproject.toml").read_bytes() + bytes(layout.root)).hexdigest()
    return _Step("kimi-k2-triton", (lock.Pin("kimi-k2-triton", "checkout", (digest,)),))


def ensure(layout: Layout, torch: Torch, progress: Progress, *, tests: bool = False) -> None:
    """Install whatever differs from the locks. Raise Refusal if no index has PyTorch, Failure if pip fails."""
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    with _exclusive(layout.run / "install.lock", progress):
        if installed(layout, torch, tests=tests):
            return
        started = time.monotonic()
        _make_venv(layout, progress)
        log = layout.logs / "install.log"
        log.write_bytes(b"")
        for step in _steps(layout, torch, tests=tests):
            if not step.done(layout):
                _install(step, layout, torch, progress, log)
                step.stamp(layout).write_text(step.digest(), encoding="ascii")
        own = _own(layout)
        if not own.done(layout):
            _check(_pip(layout, [*_OFFLINE, "-e", str(layout.root)], log, progress, 1), log)
            own.stamp(layout).write_text(own.digest(), encoding="ascii")
        progress.line(f"installed in {time.monotonic() - started:.0f} s")


def ensure_apart(layout: Layout, name: str, progress: Progress) -> Path:
    """Make `.cache/venv-NAME` from one lock, without this package, and return its Python. Third-party clients run in it
    without the server's dependencies. Raise Failure if pip fails.
    """
    apart = replace(layout, environment=f".cache/venv-{name}")
    step = _Step(name, _pins(layout, name))
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    with _exclusive(layout.run / "install.lock", progress):
        if not step.done(apart):
            started = time.monotonic()
            if step.stamp(apart).exists():
                shutil.rmtree(apart.venv)  # made from another lock: packages that this one lacks must not stay
            _make_venv(apart, progress)
            log = layout.logs / f"install-{name}.log"
            log.write_bytes(b"")
            _install(step, apart, Torch(), progress, log)
            step.stamp(apart).write_text(step.digest(), encoding="ascii")
            progress.line(f"installed in {time.monotonic() - started:.0f} s")
    return apart.python


@contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[None]:
    """Allow one installation at a time in a checkout; a second `serve` waits for the first."""
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.line("waiting for another installation in this checkout")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_venv(layout: Layout, progress: Progress) -> None:
    """Make a fresh environment, unless there is a working one that was made by the running Python."""
    config = layout.venv / "pyvenv.cfg"
    home = f"home = {Path(sys.base_prefix) / 'bin'}"
    if config.is_file() and layout.python.exists() and home in config.read_text(encoding="utf-8").splitlines():
        return
    progress.line(f"making {layout.environment} with Python {sys.version_info.major}.{sys.version_info.minor}")
    venv.create(layout.venv, clear=True, with_pip=True, symlinks=True)


def _install(step: _Step, layout: Layout, torch: Torch, progress: Progress, log: Path) -> None:
    if step.name != "torch" or torch.plain:
        code, _ = _try(step, layout, [], progress, log)
    else:
        for index in ([], ["--index-url", torch.index]) if torch.index else ([],):
            code, missing = _try(step, layout, index, progress, log)
            if code == 0 or not missing:
                break
        if code and missing:
            raise Refusal(
                "no CPU build of PyTorch found",
                "--torch-index has none either" if torch.index else "the index that pip is configured for has none",
                "add --torch-index URL (PyTorch's own: https://download.pytorch.org/whl/cpu) or --torch-plain, which "
                "is several GB larger",
            )
    _check(code, log)


def _check(code: int, log: Path) -> None:
    if code:
        raise Failure(f"the installation failed; {log} ends with:\n{tail(log, 12)}")


def _try(step: _Step, layout: Layout, index: Sequence[str], progress: Progress, log: Path) -> tuple[int, bool]:
    """Return (pip's exit code, whether pip said that the index has no such torch)."""
    requirements = layout.run / f"{step.name}.txt"
    requirements.write_text(lock.write_pins(step.pins), encoding="utf-8")
    progress.line(f"installing {step.name}: {len(step.pins)} package{'s' if len(step.pins) > 1 else ''}")
    begun = log.stat().st_size
    code = _pip(layout, [*_SECURE, *index, "-r", str(requirements)], log, progress, len(step.pins))
    return code, _NO_TORCH in read_from(log, begun)


def _pip(layout: Layout, arguments: Sequence[str], log: Path, progress: Progress, total: int) -> int:
    """Run `pip install`, append its output to `log`, show its progress, and return its exit code."""
    command = [str(layout.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {name: value for name, value in inherited().items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PIP_PROGRESS_BAR"] = "off"
    begun = log.stat().st_size
    before = _distributions(layout)
    with (
        log.open("ab") as sink,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=linux.die_with_parent,
        ) as pip,
    ):
        while pip.poll() is None:
            time.sleep(_LOOK_SECONDS)
            progress.status(_stage(read_from(log, begun), _distributions(layout) - before, total))
    return pip.returncode


def _distributions(layout: Layout) -> int:
    return sum(1 for _ in layout.venv.glob("lib/python3.*/site-packages/*.dist-info"))


def _stage(output: str, unpacked: int, total: int) -> str:
    """Say what pip is doing, judged by its output: looking packages up, fetching one, or unpacking them all."""
    lines = [line.split() for line in output.splitlines()]
    if any(words[:3] == ["Installing", "collected", "packages:"] for words in lines):
        return f"unpacking {max(0, unpacked)}/{total}"
    named = [Path(words[1]).name for words in lines if len(words) > 1 and words[0] in ("Collecting", "Processing")]
    return f"fetching {len(named)}/{total} {named[-1]}" if named else "looking packages up"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kimi_k2_serving.launch.install", description=__doc__)
    parser.add_argument("--tests", action="store_true", help="install the test tools and static checks, too")
    options = parser.parse_args(argv)
    try:
        ensure(checkout(), Torch(), Progress(sys.stderr), tests=options.tests)
    except (Refusal, Failure) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
