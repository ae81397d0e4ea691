"""Every benchmark can be started: its modules import, and each program that `scripts/bench` names explains itself."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import subprocess
import sys

import httpx
import pytest

import tests.bench
from tests.bench.enforcer.throughput import streamed
from tests.structure.tree import ROOT

MODULES = [
    each.name
    for each in pkgutil.walk_packages(tests.bench.__path__, "tests.bench.")
    if ".test_" not in each.name and not each.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_of_the_benchmarks_imports(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize("what", ["accuracy", "corpus", "first", "throughput"])
def test_every_benchmark_of_the_enforcer_explains_itself(what: str) -> None:
    command = [sys.executable, "-m", "tests.bench.enforcer", what, "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"usage: scripts/bench enforcer {what}")


def test_throughput_counts_the_tokens_of_all_responses() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content) == {"input_ids": [1], "stream": True}
        parts = [{"num_output_tokens": 3}, {"num_output_tokens": 2, "finish_reason": "length"}]
        return httpx.Response(200, text="".join(f"data: {json.dumps(part)}\n\n" for part in parts))

    async def run() -> int:
        async with httpx.AsyncClient(base_url="http://bench.test", transport=httpx.MockTransport(answer)) as client:
            return await streamed(client, {"input_ids": [1]})

    assert asyncio.run(run()) == 5
