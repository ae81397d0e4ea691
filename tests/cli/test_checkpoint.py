"""client/kimi_k2_cli/checkpoint.py: which checkpoint a command reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_k2_cli.checkpoint import DEMO, resolve
from kimi_k2_serving.core.errors import MissingField
from kimi_k2_serving.settings import CHECKPOINT


def test_the_one_asked_for_comes_first(tmp_path: Path) -> None:
    (tmp_path / DEMO).mkdir(parents=True)
    assert resolve(Path("/asked"), repository=tmp_path, environment={CHECKPOINT: "/set"}) == Path("/asked")


def test_the_environment_comes_before_the_demo(tmp_path: Path) -> None:
    (tmp_path / DEMO).mkdir(parents=True)
    assert resolve(None, repository=tmp_path, environment={CHECKPOINT: "/set"}) == Path("/set")


def test_the_demo_comes_last(tmp_path: Path) -> None:
    (tmp_path / DEMO).mkdir(parents=True)
    assert resolve(None, repository=tmp_path, environment={}) == tmp_path / DEMO


@pytest.mark.parametrize("environment", [{}, {CHECKPOINT: ""}])
def test_without_any_the_error_says_what_to_do(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(MissingField) as caught:
        resolve(None, repository=tmp_path, environment=environment)
    assert str(caught.value).startswith("missing_field: --checkpoint: name the model's directory, set ")
