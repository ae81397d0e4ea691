"""`.ci/run` after the installation: runs all steps in order, also after a failed one, and counts what they ran.

Each step prints its minutes and its count. The last line is always `N passed, N failed` (and `, N skipped`); the exit
code is 0 if nothing failed. A step counts at least one failure if it fails, hangs, or has a suite that ran no test and
may not be skipped.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.ci.steps import ROOT, STEPS, Step
from tests.support import tally
from tests.support.tally import Count, suite_of

# A step that takes this many times its minutes counts as hung.
PATIENCE = 3
END_SECONDS = 30.0


def main(argv: Sequence[str], steps: Sequence[Step] = STEPS) -> int:
    parser = argparse.ArgumentParser(prog=".ci/run", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(step.name for step in steps)}")
    wanted = parser.parse_args(argv).steps
    if unknown := set(wanted) - {step.name for step in steps}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    counts: list[Count] = []
    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        for step in steps:
            if not wanted or step.name in wanted:
                counts.append(Count(step.name, failed=1))  # counts if the run is interrupted
                counts[-1] = perform(step)
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    return close(counts)


def interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def perform(step: Step, patience: float = PATIENCE) -> Count:
    print(f"\n=== {step.name}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines, report = Path(folder) / "tally", Path(folder) / "report.xml"
        ended = all(run(command(each, step, report), lines, 60 * patience * step.minutes) for each in step.commands)
        found = tally.of_report(report, suite_of) if step.pytest else tally.read(lines)
    count = judged(step, ended, found)
    minutes = (time.monotonic() - begun) / 60
    over = "" if minutes <= step.minutes else ", OVER"
    print(f"=== {step.name}: {sentence(count)}, in {minutes:.1f} of {step.minutes} minutes{over}", flush=True)
    return count


def command(words: Sequence[str], step: Step, report: Path) -> list[str]:
    return [*words, f"--junitxml={report}"] if step.pytest and "pytest" in words else [*words]


def run(words: Sequence[str], lines: Path, seconds: float) -> bool:
    """Run a command and return whether it succeeded in time. After a timeout its whole process group is ended."""
    environment = {**os.environ, tally.VARIABLE: str(lines)}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"=== not done within {seconds:.0f} s: {' '.join(words)}", flush=True)
        return False
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process group of a process that still runs, with SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def judged(step: Step, ended: bool, found: Sequence[Count]) -> Count:
    """The step's count: the counts found, plus a failure for each suite that ran no test; at least one if it failed."""
    if not step.suites:
        return Count(step.name, passed=int(ended), failed=int(not ended))
    ran = {count.suite for count in found if count.ran or (count.skipped and count.suite in step.skippable)}
    missing = [name for name in step.suites if name not in ran]
    for name in missing:
        print(f"=== {name} ran nothing", flush=True)
    total = tally.added(found, step.name)
    failed = max(total.failed + len(missing), int(not ended))
    return Count(step.name, total.passed, failed, total.skipped)


def sentence(count: Count) -> str:
    skipped = f", {count.skipped} skipped" if count.skipped else ""
    return f"{count.passed} passed, {count.failed} failed{skipped}"


def close(counts: Sequence[Count]) -> int:
    total = tally.added(counts, "all")
    if not total.ran:
        total = Count("all", failed=1)
    if failed := [count.suite for count in counts if count.failed]:
        print(f"\nfailed: {', '.join(failed)}")
    print(sentence(total), flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
