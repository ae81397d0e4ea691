"""`python -m tests.mutation [MODULE ...] [--sample N] [--seed S]`: how many small faults do a module's tests notice?

Each module's tests run once as they are; then, for every mutant, in a forked child up to the first failure. A mutant is
killed if a test fails or the time runs out. Survivors are printed; those named in equivalent.txt, which no test can
tell from the original, are counted apart. Property tests draw few examples and do not shrink.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

from tests.mutation.graft import Ungraftable, graft
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.suites import SUITES

EQUIVALENT = Path(__file__).parent / "equivalent.txt"
EXAMPLES = 60
# A test that takes longer is not run for every mutant.
SLOW_SECONDS = 1.0
REBUILT = (".tokens", ".vocabulary_files")
KILLED, SURVIVED, UNGRAFTABLE = 1, 0, 3


class Mutation:
    """A pytest plugin: its test loop is the loop over mutants. `result` is killed, equivalent, total."""

    def __init__(self, module: str, sample: int, seed: int) -> None:
        path = module if "." in module else f"core.{module}"
        if path.startswith("triton."):
            # The folder's conftest puts a fake in place of Triton's own module.
            importlib.import_module("tests.triton.conftest")
        self.module = importlib.import_module(f"kimi_k2_serving.{path}")
        self.tree = ast.parse(Path(str(self.module.__file__)).read_text())
        every = list(mutants(self.tree))
        self.of = len(every)
        self.mutants = (
            sorted(random.Random(seed).sample(every, sample), key=every.index) if sample < len(every) else every
        )
        self.equivalent = _equivalent(module)
        self.killed = self.same = 0
        self.failed: list[str] = []
        self.survivors: list[Mutant] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}: {report.longreprtext[-500:]}")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            _draw_little(item)
        durations = {item: self._run(session, [item]) for item in session.items}
        if self.failed:
            raise pytest.UsageError(f"fails without a mutant: {self.failed[0]}")
        quick = [item for item in session.items if durations[item] < SLOW_SECONDS]
        items = sorted(quick, key=durations.__getitem__)
        if self.module.__name__.endswith(REBUILT):
            # What the session's fixtures hold was made by the module as it is: every child makes it anew.
            session._setupstate.teardown_exact(None)
        limit = 10 + 10 * sum(map(durations.__getitem__, items))
        for mutant in self.mutants:
            outcome = self._outcome(session, items, mutant, limit)
            if outcome == KILLED:
                self.killed += 1
            elif outcome == UNGRAFTABLE:
                print(f"{self.module.__name__}: could not be tried, {mutant}", flush=True)
            elif mutant.change() in self.equivalent:
                self.same += 1
            else:
                self.survivors.append(mutant)
                print(f"{self.module.__name__}: survived, {mutant}", flush=True)
        return True

    def _run(self, session: pytest.Session, items: list[pytest.Item]) -> float:
        started = time.process_time()
        # All that the next item shares is the session, whose fixtures so stay.
        following: Any = SimpleNamespace(listchain=lambda: [session])
        for item in items:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                break
        return time.process_time() - started

    def _outcome(self, session: pytest.Session, items: list[pytest.Item], mutant: Mutant, limit: float) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            self._child(session, items, mutant)
        until = time.monotonic() + limit
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code in (SURVIVED, UNGRAFTABLE) else KILLED
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return KILLED

    def _child(self, session: pytest.Session, items: list[pytest.Item], mutant: Mutant) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = KILLED
        try:
            mutant.swap()
            graft(self.module, self.tree)
            self._run(session, items)
            code = KILLED if self.failed else SURVIVED
        except Ungraftable:
            code = UNGRAFTABLE
        finally:
            os._exit(code)


def _draw_little(item: pytest.Item) -> None:
    """Fewer examples and no search for the smallest one: a failure is all that counts."""
    function: Any = getattr(item, "obj", None)
    if hasattr(function, "_hypothesis_internal_use_settings"):
        few = _few(function._hypothesis_internal_use_settings)
        getattr(function, "__func__", function)._hypothesis_internal_use_settings = few
    machine: Any = getattr(item, "cls", None)
    if isinstance(getattr(machine, "settings", None), hypothesis.settings):
        machine.settings = _few(machine.settings)


def _few(own: hypothesis.settings) -> hypothesis.settings:
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    few = min(EXAMPLES, own.max_examples)
    return hypothesis.settings(own, max_examples=few, phases=phases, database=None, derandomize=True, deadline=None)


def _equivalent(module: str) -> set[str]:
    """Blocks of equivalent.txt: `module: reason`, then a mutant as it is printed, less its line."""
    found = set()
    for block in EQUIVALENT.read_text().split("\n\n"):
        name, _, rest = block.partition(":")
        if name.strip() == module:
            found.add(rest.partition("\n")[2].rstrip())
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    arguments.add_argument(
        "modules", nargs="*", default=sorted(SUITES), help="of core, or with its part as engine.wire (default: all)"
    )
    arguments.add_argument("--sample", type=int, default=10_000, help="at most so many mutants of each")
    arguments.add_argument("--seed", type=int, default=1)
    args = arguments.parse_args()
    os.environ.setdefault("KIMI_K2_CONVERSATIONS", "80")
    survived = 0
    for module in args.modules:
        plugin = Mutation(module, args.sample, args.seed)
        started = time.monotonic()
        options = ["-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:terminal", "--assert=plain", "--capture=no"]
        status = pytest.main([*options, *SUITES[module]], plugins=[plugin])
        if plugin.killed + plugin.same + len(plugin.survivors) != len(plugin.mutants):
            print(f"{module}: the tests did not run ({status})")
            return 2
        survived += len(plugin.survivors)
        print(
            f"{module}: {plugin.killed} killed, {plugin.same} equivalent, {len(plugin.survivors)} survived "
            f"of {len(plugin.mutants)} tried, {plugin.of} possible; {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
