"""What a suite ran, as a line of JSON that `.ci/run` adds up.

Whoever runs a suite records it, in the file that KIMI_K2_TALLY names; without one nothing is written. What pytest ran
is read from its own JUnit report.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

VARIABLE = "KIMI_K2_TALLY"


@dataclass(frozen=True, slots=True)
class Count:
    """What became of a suite's checks."""

    suite: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def ran(self) -> int:
        return self.passed + self.failed


def record(*counts: Count) -> None:
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(dataclasses.asdict(count)) + "\n" for count in counts)


def read(path: Path) -> list[Count]:
    """Everything that was recorded; nothing if nobody did."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Count(**json.loads(line)) for line in lines]


def added(counts: Iterable[Count], suite: str) -> Count:
    found = list(counts)
    passed, failed, skipped = (sum(getattr(each, name) for each in found) for name in ("passed", "failed", "skipped"))
    return Count(suite, passed, failed, skipped)


def suite_of(owner: str) -> str:
    """The suite of a module or class: `core` for `tests.core.test_chat`."""
    parts = owner.split(".")
    return parts[1] if len(parts) > 1 else owner


def of_report(path: Path, suite: Callable[[str], str]) -> list[Count]:
    """By suite, from a JUnit report; `suite` names that of a test class. Nothing if pytest left no report."""
    if not path.exists():
        return []
    kinds: Counter[tuple[str, str]] = Counter()
    # A test that fails and whose fixture then fails, too, is there twice.
    worst: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        # A module that is skipped as a whole has no class, and is the name.
        name = case.get("name", "")
        key = case.get("classname") or name, name
        tags = {child.tag for child in case}
        kind = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        worst[key] = kind if worst.get(key) != "failed" else "failed"
    for (owner, _), kind in worst.items():
        kinds[suite(owner), kind] += 1
    names = sorted({name for name, _ in kinds})
    return [Count(name, kinds[name, "passed"], kinds[name, "failed"], kinds[name, "skipped"]) for name in names]
