"""The package's surface, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import kimi_k2_client

HEAVY = ("httpx", "grpc", "numpy", "tritonclient", "tiktoken", "asyncio.unix_events")


def test_everything_public_is_listed_and_there() -> None:
    public = {name for name in vars(kimi_k2_client) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(kimi_k2_client, name)).__name__ == "module"}
    assert public - modules == set(kimi_k2_client.__all__)


def test_importing_it_imports_no_transport() -> None:
    code = f"import sys, kimi_k2_client; print([name for name in {HEAVY[:-1]!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
