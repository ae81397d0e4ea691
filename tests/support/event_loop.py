"""One asyncio event loop for all asynchronous tests of a process.

gRPC's one thread wakes any loop of the process, and that loop tells the loop that made a call of its end. If each test
closed a loop of its own, a call that ends late would fail the next test.
"""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def loop_until_the_end(anyio_backend: str) -> str:
    return anyio_backend
