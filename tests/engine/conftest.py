"""Tests on the event loop run on asyncio, as the host and the stub do."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
