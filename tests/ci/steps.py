"""The steps that every change must pass, in order, with their maximum minutes on two cores, as in CONTRIBUTING.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Commands that run one after the other. Each of `suites` must run a test, or skip if it is in `skippable`. Suites
    record their counts themselves or, with `pytest`, in a report. A step without suites is one check.
    """

    name: str
    minutes: int
    commands: tuple[Command, ...]
    suites: tuple[str, ...] = ()
    skippable: tuple[str, ...] = ()
    pytest: bool = False


def own_suites(tests: Path = ROOT / "tests") -> tuple[str, ...]:
    """The folders of `tests` in which pytest finds tests."""
    return tuple(
        sorted(
            each.name
            for each in tests.iterdir()
            if each.is_dir() and any("clients" not in path.parts for path in each.rglob("test_*.py"))
        )
    )


def python(*words: str) -> Command:
    return (PYTHON, "-m", *words)


# These suites need Node.
FROM_NPM = ("codex-scripted", "claude-code-scripted")

# These suites have tests that need a server. They run one after the other: many of them promise a time.
WITH_SERVER = ("bench", "launch", "server", "twin")

# What runs on the other Python, too: tests.ci.second_python.
SECOND = ("cli", "client", "core", "plan")

STEPS = (
    Step("ruff", 1, (python("ruff", "check", "."), python("ruff", "format", "--check", "."))),
    Step("mypy", 2, (python("mypy"),)),
    Step("cuda", 1, (python("kimi_k2_serving.launch.prove_cuda", "--lock", "requirements/serve-gpu.txt"),)),
    Step(
        "tests",
        8,
        (python("pytest", "-n", "2", "--dist", "worksteal", "-m", "not server", "--ignore=tests/core"),),
        tuple(suite for suite in own_suites() if suite not in ("core", "server")),
        pytest=True,
    ),
    # The core's own tests must cover every line and branch of core.
    Step(
        "core",
        2,
        (python("coverage", "run", "-m", "pytest", "-q", "tests/core"), python("coverage", "report")),
        ("core",),
        pytest=True,
    ),
    Step("server", 22, (python("pytest", "-m", "server", "--durations=25"),), WITH_SERVER, pytest=True),
    Step("second python", 3, (python("tests.ci.second_python"),), SECOND, skippable=SECOND),
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
        6,
        (("scripts/test-clients",),),
        ("sdks", "sdks-scripted", "openai-3", "agents", "agents-scripted", "evaluation", "fuzz", *FROM_NPM),
        skippable=FROM_NPM,
    ),
    Step("chaos", 12, (("scripts/chaos", "--short"),), ("chaos",)),
)
