"""The package's surface, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kimi_k2_client

HEAVY = ("httpx", "grpc", "numpy", "tritonclient", "tiktoken", "asyncio", "pydantic")


def test_everything_public_is_listed_and_there() -> None:
    public = {name for name in vars(kimi_k2_client) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(kimi_k2_client, name)).__name__ == "module"}
    listed = set(kimi_k2_client.__all__)
    assert public - modules - {"TYPE_CHECKING", "annotations", "Any"} == listed - {"AsyncClient", "__version__"}
    assert all(hasattr(kimi_k2_client, name) for name in listed)
    with pytest.raises(AttributeError):
        kimi_k2_client.NoSuchName  # noqa: B018


def test_importing_it_imports_no_transport() -> None:
    code = f"import sys, kimi_k2_client; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
