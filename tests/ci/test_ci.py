"""`.ci/run` ends with one line that says what ran, and fails if a suite ran no test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ci import __main__ as ci
from tests.ci.steps import ROOT, STEPS, Step, own_suites
from tests.support import tally
from tests.support.tally import Count


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def recording(*counts: Count, code: int = 0) -> tuple[str, ...]:
    return program(
        f"from tests.support.tally import Count, record; record(*{list(counts)!r}); raise SystemExit({code})"
    )


def closing(capfd: pytest.CaptureFixture[str], *steps: Step) -> tuple[int, list[str]]:
    code = ci.main([], steps)
    return code, capfd.readouterr().out.splitlines()


def test_the_last_line_counts_all_suites_and_checks(capfd: pytest.CaptureFixture[str]) -> None:
    suites = Step("two", 1, (recording(Count("a", 3), Count("b", 4, 0, 2)),), ("a", "b"))
    code, lines = closing(capfd, Step("check", 1, (program(""),)), suites)
    assert (code, lines[-1]) == (0, "8 passed, 0 failed, 2 skipped")
    assert not any(line.startswith("failed") for line in lines)
    assert any(line.startswith("=== two: 7 passed, 0 failed, 2 skipped, in 0.0 of 1 minutes") for line in lines)


@pytest.mark.parametrize(
    ("step", "last"),
    [
        (Step("bad", 1, (program("raise SystemExit(1)"),)), "1 passed, 1 failed"),
        (Step("bad", 1, (program("raise SystemExit(1)"), recording()), ("a",)), "1 passed, 1 failed"),
        (Step("bad", 1, (recording(Count("a", 5, 2), code=1),), ("a",)), "6 passed, 2 failed"),
        # A failure that the step did not count.
        (Step("bad", 1, (recording(Count("a", 5), code=1),), ("a",)), "6 passed, 1 failed"),
        # A failure that was counted, but the exit code is 0.
        (Step("bad", 1, (recording(Count("a", 5, 1)),), ("a",)), "6 passed, 1 failed"),
    ],
)
def test_a_step_that_failed_is_named_and_the_others_still_run(
    capfd: pytest.CaptureFixture[str], step: Step, last: str
) -> None:
    code, lines = closing(capfd, step, Step("good", 1, (program(""),)))
    assert (code, lines[-2:]) == (1, ["failed: bad", last])


@pytest.mark.parametrize(
    "counts", [(), (Count("a", 3),), (Count("a", 3), Count("b")), (Count("a", 3), Count("b", skipped=9))]
)
def test_a_suite_that_ran_nothing_is_a_failure(capfd: pytest.CaptureFixture[str], counts: tuple[Count, ...]) -> None:
    code, lines = closing(capfd, Step("suites", 1, (recording(*counts),), ("a", "b")))
    assert code == 1
    assert "=== b ran nothing" in lines


def test_a_suite_that_may_be_skipped_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    step = Step("suites", 1, (recording(Count("a", passed=1), Count("b", skipped=1)),), ("a", "b"), ("b",))
    code, lines = closing(capfd, step)
    assert (code, lines[-1]) == (0, "1 passed, 0 failed, 1 skipped")
    must = Step("suites", 1, (recording(Count("a", passed=1), Count("b", skipped=1)),), ("a", "b"), ("a",))
    assert closing(capfd, must)[0] == 1


def test_a_run_of_nothing_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    assert closing(capfd) == (1, ["0 passed, 1 failed"])


def test_a_step_that_hangs_is_ended_and_has_failed() -> None:
    count = ci.perform(Step("slow", 1, (program("import time; time.sleep(60)"),)), patience=0.02)
    assert count == Count("slow", failed=1)


def test_an_interrupted_run_still_says_what_ran(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    steps = (
        "import sys; from tests.ci import __main__ as ci; from tests.ci.steps import Step;"
        "text = 'import pathlib, time; pathlib.Path(' + repr(sys.argv[1]) + ').touch(); time.sleep(60)';"
        "wait = (sys.executable, '-c', text);"
        "sys.exit(ci.main([], (Step('good', 1, ((sys.executable, '-c', ''),)), Step('long', 1, (wait,)))))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", steps, str(begun)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while not begun.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    assert process.returncode == 1
    assert out.splitlines()[-2:] == ["failed: long", "1 passed, 1 failed"]


def test_pytest_is_counted_by_suite_from_its_own_report(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "some"
    folder.mkdir(parents=True)
    (folder / "test_all.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken():\n    yield\n    raise ValueError\n"
        "def test_good(): pass\n"
        "def test_bad(broken): assert False\n"
        "@pytest.mark.skip(reason='')\n"
        "def test_not(): pass\n"
    )
    (folder / "test_none.py").write_text("import pytest\npytest.skip('', allow_module_level=True)\n")
    report = tmp_path / "report.xml"
    line = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), f"--junitxml={report}"]
    subprocess.run([*line, "tests"], cwd=tmp_path, stdout=subprocess.DEVNULL, check=False)
    assert tally.of_report(report, tally.suite_of) == [Count("some", 1, 1, 2)]
    assert tally.of_report(tmp_path / "none.xml", tally.suite_of) == []


def test_every_folder_of_tests_is_a_suite() -> None:
    assert {"core", "server", "ci"} <= set(own_suites())
    assert "chaos" not in own_suites()


def test_the_table_of_steps_is_the_documents_and_adds_up_to_65_minutes_at_most() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    told = {name: int(minutes) for name, minutes, *_ in rows if minutes.isdecimal()}
    assert {step.name: step.minutes for step in STEPS}.items() <= told.items()
    assert sum(minutes for name, minutes in told.items() if name != "all") == told["all"] <= 65
