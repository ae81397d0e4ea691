"""A time budget for each suite: the run names a suite that exceeds it, and fails if one takes more than twice as long.

The budgets are for two cores with nothing else running, one test at a time. Set KIMI_K2_BUDGETS=off on a busy machine.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

# In minutes. The default is 1.
BUDGETS = {
    "bench": 2,
    "ci": 1,
    "cli": 3,
    "client": 3,
    "core": 3,
    "demo": 4,
    "engine": 3,
    "frontend": 4,
    "fuzz": 2,
    "grammar": 6,
    "launch": 3,
    "page": 2,
    "plan": 2,
    "property": 3,
    "server": 24,
    "structure": 2,
    "triton": 2,
}
# A machine may be this much slower than ours before a budget fails.
SLACK = 2
ROOT = Path(__file__).parent
# A busy machine makes any example slow; tests that promise a time measure it themselves.
hypothesis.settings.register_profile("kimi_k2", deadline=None)
hypothesis.settings.load_profile("kimi_k2")
seconds: pytest.StashKey[dict[str, float]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[seconds] = defaultdict(float)
    config.pluginmanager.register(Budgets(config))


class Budgets:
    def __init__(self, config: pytest.Config) -> None:
        self._spent = config.stash[seconds]
        self._enforced = os.environ.get("KIMI_K2_BUDGETS") != "off"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._spent[report.nodeid.split("/")[1] if "/" in report.nodeid else ""] += report.duration

    def _over(self, slack: float = 1) -> list[str]:
        return [suite for suite, spent in self._spent.items() if spent > slack * 60 * BUDGETS.get(suite, 1)]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._enforced and self._over(SLACK) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("minutes per suite, of its budget")
        for suite, spent in sorted(self._spent.items()):
            mark = "  OVER" if suite in self._over() else ""
            terminalreporter.line(f"{suite:12} {spent / 60:5.1f} of {BUDGETS.get(suite, 1)}{mark}")
