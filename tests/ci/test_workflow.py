"""The hosted workflow runs the same steps as a developer, in their time; the issue forms are well-formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.ci.steps import ROOT, STEPS

GITHUB = ROOT / ".github"
PREPARE_MINUTES = 4


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def test_the_workflow_runs_every_step_and_has_the_time_for_it() -> None:
    (job,) = load(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["timeout-minutes"] > PREPARE_MINUTES + sum(step.minutes for step in STEPS)


def test_the_workflow_may_only_read() -> None:
    assert load(GITHUB / "workflows" / "ci.yml")["permissions"] == {"contents": "read"}


def test_each_issue_form_has_a_name_and_asks_for_something() -> None:
    forms = [path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) >= 3
    for form in map(load, forms):
        assert form["name"]
        assert form["description"]
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert any(field.get("validations", {}).get("required") for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
        assert all(field["attributes"]["label"] for field in fields)
