"""A suitable machine and a complete checkout; tests take one thing away."""

from __future__ import annotations

from pathlib import Path

import pytest

from kimi_k2_serving.launch.layout import Layout
from kimi_k2_serving.launch.machine import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine(
        python=(3, 11),
        architecture="x86_64",
        cpu_flags=frozenset({"avx2", "fma"}),
        glibc=(2, 36),
        libpython=Path("/usr/lib/libpython3.11.so.1.0"),
        free_disk=100 * 10**9,
        nvidia=False,
        gpus=(),
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    config = tmp_path / "checkout" / "model_repository" / "kimi_k2" / "config.pbtxt"
    config.parent.mkdir(parents=True)
    config.touch()
    return Layout(tmp_path / "checkout")
