"""The page over the scripted engine, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.frontend.running import scripted
from tests.support.browser import chromium, context, page

__all__ = ["chromium", "context", "page"]


@pytest.fixture(scope="session")
def scripted_url() -> Iterator[str]:
    with scripted("--pause", "0.02") as url:
        yield url
