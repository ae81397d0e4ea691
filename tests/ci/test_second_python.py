"""The other Python is found where it is, and its absence is said and counted as skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ci import second_python
from tests.ci.steps import SECOND, STEPS
from tests.support import tally


def test_the_step_runs_every_suite_that_it_names() -> None:
    (step,) = [step for step in STEPS if step.name == "second python"]
    assert step.suites == step.skippable == SECOND
    assert all((second_python.ROOT / "tests" / suite).is_dir() for suite in SECOND)


def test_without_another_python_every_suite_is_skipped_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(tally.VARIABLE, str(tmp_path / "tally"))
    monkeypatch.setattr(second_python, "find_python", lambda version: None)
    assert second_python.main() == 0
    assert f"no Python {second_python.OTHER} here: not run on it" in capsys.readouterr().out
    assert [(count.suite, count.skipped) for count in tally.read(tmp_path / "tally")] == [(each, 1) for each in SECOND]


def test_a_python_that_does_not_run_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shim of pyenv is on PATH, but ends with an error if its version is not chosen."""
    shim = tmp_path / "python9.9"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert second_python.find_python("9.9") is None
    chosen = tmp_path / ".pyenv" / "versions" / "9.9.1" / "bin" / "python9.9"
    chosen.parent.mkdir(parents=True)
    chosen.write_text("#!/bin/sh\nexit 0\n")
    chosen.chmod(0o755)
    assert second_python.find_python("9.9") == chosen
