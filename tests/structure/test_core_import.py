"""core is light: its import is fast and needs only the standard library and tiktoken."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.structure.tree import ROOT, modules

# Measured: 0.05 s on two cores. The bound leaves room for a cold disk and a busy machine.
SECONDS = 1.0
TRIES = 3

PROBE = """
import importlib, json, sys, time
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
begin = time.perf_counter()
for name in sys.argv[2:]:
    importlib.import_module(name)
seconds = time.perf_counter() - begin
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps([seconds, sorted(new - set(sys.stdlib_module_names))]))
"""


def probe(names: list[str]) -> tuple[float, list[str]]:
    """Import `names` in a new process. Return the seconds and the imported packages outside the standard library."""
    command = [sys.executable, "-I", "-c", PROBE, str(ROOT / "backend"), *names]
    seconds, packages = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return seconds, packages


@pytest.fixture(scope="module")
def imported() -> tuple[float, list[str]]:
    names = [module.name for module in modules("backend") if module.group == "core"]
    assert len(names) > 10
    runs = [probe(names) for _ in range(TRIES)]
    return min(seconds for seconds, _ in runs), runs[0][1]


@pytest.mark.slow
def test_core_needs_only_the_standard_library_and_tiktoken(imported: tuple[float, list[str]]) -> None:
    allowed = {"kimi_k2_serving", "tiktoken", "tiktoken_ext", "regex", "requests"}
    assert set(imported[1]) - allowed - _brought_in_by("tiktoken") == set()


def _brought_in_by(package: str) -> set[str]:
    """The packages that `package` itself imports; they are not our own imports."""
    return set(probe([package])[1])


def test_core_is_imported_in_bounded_time(imported: tuple[float, list[str]]) -> None:
    assert imported[0] < SECONDS


def test_the_probe_sees_a_package_that_should_not_be_there() -> None:
    assert "numpy" in probe(["numpy"])[1]
