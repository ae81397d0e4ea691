"""One real server for the whole session; tests that break theirs start one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Server, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def trained() -> Iterator[Server]:
    """A server with the trained demo model; leave it as it is."""
    with running("--preset", "demo") as started:
        yield started


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as started:
        yield started
