"""What every change must pass, in order, and the minutes that each may take on two cores, as CONTRIBUTING says."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Commands one after the other. `suites` have to run something each; they record it themselves, or (`pytest`) leave
    it in a report, or there are none and the step is one check. Those in `skippable` may record a skip instead.
    """

    name: str
    minutes: int
    commands: tuple[Command, ...]
    suites: tuple[str, ...] = ()
    skippable: tuple[str, ...] = ()
    pytest: bool = False


def own_suites(tests: Path = ROOT / "tests") -> tuple[str, ...]:
    """The folders of `tests` that pytest finds something in."""
    return tuple(
        sorted(
            each.name
            for each in tests.iterdir()
            if each.is_dir() and any("clients" not in path.parts for path in each.rglob("test_*.py"))
        )
    )


def python(*words: str) -> Command:
    return (PYTHON, "-m", *words)


# Where there is no Node.
FROM_NPM = ("codex-scripted", "claude-code-scripted")

STEPS = (
    Step("ruff", 1, (python("ruff", "check", "."), python("ruff", "format", "--check", "."))),
    Step("mypy", 2, (python("mypy"),)),
    Step("tests", 25, (python("pytest"),), own_suites(), pytest=True),
    # Every line and branch of core, by core's own tests.
    Step("coverage", 2, (python("coverage", "run", "-m", "pytest", "-q", "tests/core"), python("coverage", "report"))),
    Step(
        "parser fuzz",
        2,
        (
            (
                *("scripts/fuzz", "parser", "--runs", "200000", "--seed", "4", "--jobs", "2", "--fresh"),
                *("--state", ".cache/fuzz/ci.json"),
            ),
        ),
        ("fuzz parser",),
    ),
    Step("engine fuzz", 2, (("scripts/fuzz", "engine", "--runs", "960", "--seed", "4"),), ("fuzz engine",)),
    Step(
        "clients",
        7,
        (("scripts/test-clients",),),
        ("sdks", "sdks-scripted", "openai-3", "agents", "agents-scripted", "fuzz", *FROM_NPM),
        skippable=FROM_NPM,
    ),
    Step("chaos", 14, (("scripts/chaos", "--short"),), ("chaos",)),
)
