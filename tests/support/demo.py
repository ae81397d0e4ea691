"""The random demo checkpoint as a fixture: built once a session, by the builder that the product uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_k2_serving.demo.build import DemoWeights, build_checkpoint


def _silent(line: str) -> None:
    pass


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests: read it, copy it, leave it as it is."""
    directory = tmp_path_factory.mktemp("demo") / "checkpoint"
    build_checkpoint(directory, DemoWeights.RANDOM, report=_silent)
    return directory
