"""The environment is made once, remade where its sources changed, and an interrupted installation is completed."""

from __future__ import annotations

import io
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kimi_k2_serving.launch import install, lock
from kimi_k2_serving.launch.install import Torch
from kimi_k2_serving.launch.layout import Layout
from kimi_k2_serving.launch.progress import Progress, symptoms
from kimi_k2_serving.launch.refusal import Failure, Refusal

# A stand-in for .venv/bin/python: it records its arguments and runs the script `behaviour` beside it.
PIP = """#!/bin/sh
here="$(dirname "$0")"
echo "$@" >> "$here/calls"
. "$here/behaviour"
"""


@pytest.fixture
def checkout(layout: Layout) -> Layout:
    layout.requirements.mkdir()
    digest = "0" * 64
    for name, pins in {
        "serve-cpu": [lock.Pin("numpy", "1.26.4", (digest,)), lock.Pin("torch", "2.13.0+cpu", (digest,))],
        "torch-plain": [lock.Pin("torch", "2.13.0", (digest,)), lock.Pin("nvidia-cublas", "13.0", (digest,))],
        "test": [lock.Pin("pytest", "9.2.0", (digest,))],
    }.items():
        (layout.requirements / f"{name}.txt").write_text(lock.write_pins(pins))
    (layout.root / "pyproject.toml").write_text("[project]\n")
    pretend(layout)
    return layout


def pretend(layout: Layout) -> None:
    """An environment whose Python is PIP."""
    layout.python.parent.mkdir(parents=True)
    (layout.venv / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    layout.python.write_text(PIP)
    layout.python.chmod(stat.S_IRWXU)
    behave(layout, "exit 0")


def behave(layout: Layout, script: str) -> None:
    (layout.python.parent / "behaviour").write_text(script)


def ensure(layout: Layout, torch: Torch | None = None, *, tests: bool = False) -> list[str]:
    """Install, and return the pip calls that it took."""
    calls = layout.python.parent / "calls"
    calls.unlink(missing_ok=True)
    install.ensure(layout, torch or Torch(), Progress(io.StringIO()), tests=tests)
    return calls.read_text().splitlines() if calls.exists() else []


def test_torch_comes_first_then_the_rest_then_this_package(checkout: Layout) -> None:
    assert not install.installed(checkout, Torch())
    torch, rest, own = ensure(checkout)
    assert torch.endswith("torch.txt")
    assert rest.endswith("serve-cpu.txt")
    assert own.endswith(f"--no-index -e {checkout.root}")
    for call in (torch, rest):
        assert "--require-hashes --no-deps --only-binary :all:" in call
    assert [pin.name for pin in lock.read_pins((checkout.run / "serve-cpu.txt").read_text())] == ["numpy"]


def test_a_second_time_there_is_nothing_to_do(checkout: Layout) -> None:
    ensure(checkout)
    assert install.installed(checkout, Torch())
    assert ensure(checkout) == []


@pytest.mark.slow
def test_only_what_changed_is_done_again(checkout: Layout) -> None:
    ensure(checkout)
    (checkout.root / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (own,) = ensure(checkout)
    assert own.endswith(f"-e {checkout.root}")
    (tests,) = ensure(checkout, tests=True)
    assert tests.endswith("test.txt")


@pytest.mark.slow
def test_an_interrupted_installation_goes_on_where_it_stopped(checkout: Layout) -> None:
    behave(checkout, 'case "$*" in *serve-cpu.txt) exit 1;; esac')
    with pytest.raises(Failure, match="installation failed"):
        ensure(checkout)
    behave(checkout, "exit 0")
    rest, _own = ensure(checkout)
    assert rest.endswith("serve-cpu.txt")


NO_TORCH = 'case "$*" in *torch.txt) echo "ERROR: No matching distribution found for torch==2.13.0+cpu"; exit 1;; esac'


def test_a_missing_torch_is_refused_with_both_flags_that_help(checkout: Layout) -> None:
    behave(checkout, NO_TORCH)
    with pytest.raises(Refusal) as caught:
        ensure(checkout)
    message = str(caught.value)
    assert "--torch-index URL" in message
    assert "--torch-plain" in message
    assert message.count("\n") == 0


@pytest.mark.slow
def test_the_given_index_is_asked_only_after_pips_own(checkout: Layout) -> None:
    behave(checkout, NO_TORCH.replace("*torch.txt)", "*--index-url*) ;; *torch.txt)"))
    own, given, *_ = ensure(checkout, Torch(index="https://example.org/cpu"))
    assert "--index-url" not in own
    assert "--index-url https://example.org/cpu" in given


def test_an_environment_apart_has_one_lock_alone_and_is_made_anew_when_that_changes(
    checkout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = replace(checkout, environment=".cache/venv-test")
    monkeypatch.setattr(install, "_make_venv", lambda layout, progress: layout.python.exists() or pretend(layout))
    made = [install.ensure_apart(checkout, "test", Progress(io.StringIO())) for _ in range(2)]
    assert made == [apart.python] * 2
    (call,) = (apart.python.parent / "calls").read_text().splitlines()
    assert "--require-hashes --no-deps" in call
    assert call.endswith("test.txt")
    (checkout.requirements / "test.txt").write_text(lock.write_pins([lock.Pin("pytest", "9.2.1", ("0" * 64,))]))
    (apart.venv / "of-the-old-lock").touch()
    install.ensure_apart(checkout, "test", Progress(io.StringIO()))
    assert not (apart.venv / "of-the-old-lock").exists()
    assert not (checkout.python.parent / "calls").exists(), "the server's own environment is left alone"


def test_a_wrong_hash_is_not_reported_as_a_missing_torch(checkout: Layout) -> None:
    behave(checkout, 'echo "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"; exit 1')
    with pytest.raises(Failure, match="DO NOT MATCH THE HASHES"):
        ensure(checkout, Torch(index="https://example.org/cpu"))
    assert len((checkout.python.parent / "calls").read_text().splitlines()) == 1


@pytest.mark.slow
def test_the_plain_wheel_takes_the_place_of_the_cpu_build_and_stays(checkout: Layout) -> None:
    ensure(checkout, Torch(plain=True))
    assert {pin.name for pin in lock.read_pins((checkout.run / "torch.txt").read_text())} == {"torch", "nvidia-cublas"}
    assert install.installed(checkout, Torch())


def test_a_wait_is_visible_on_a_terminal_and_in_a_log() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    seconds = iter(float(number) for number in range(100))
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        progress = Progress(stream, clock=lambda: next(seconds))
        for number in range(12):
            progress.status(f"step {number}")
    assert terminal.getvalue().count("\r\033[K") == 12
    assert 2 <= log.getvalue().count("\n") <= 6


def test_the_errors_of_a_log_are_found_above_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    noise = [f"I1123 line {number}" for number in range(50)]
    log.write_text("\n".join([*noise, "E1123 the reason", "| a table |", "+---+", *noise]))
    assert symptoms(log).splitlines()[0] == "E1123 the reason"
    assert symptoms(log).splitlines()[-1] == noise[-1]
    assert symptoms(tmp_path / "none") == ""


def test_the_scripts_only_bootstrap() -> None:
    for script in (Path(__file__).parents[2] / "scripts" / name for name in ("serve", "lock")):
        assert len(script.read_text().splitlines()) < 20
        subprocess.run(["bash", "-n", str(script)], check=True)
