"""What the CPU plugin changes in SGLang; that the platform serves is held by every test with a real engine."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from kimi_k2_serving.engine import cpu_plugin


@pytest.mark.parametrize(("ranks", "reductions"), [(1, 0), (2, 1), (16, 1)])
def test_sampled_ids_are_reduced_over_several_ranks_and_never_over_one(
    monkeypatch: pytest.MonkeyPatch, ranks: int, reductions: int
) -> None:
    sizes = {"the sampler's group": ranks}
    monkeypatch.setattr("torch.distributed.get_world_size", sizes.__getitem__)
    sampler, seen = SimpleNamespace(tp_sync_group="the sampler's group"), []
    cpu_plugin.agree(lambda *given: seen.append(given), sampler, "ids", "sampling")
    assert seen == [(sampler, "ids", "sampling")] * reductions


def test_the_method_that_is_wrapped_exists_in_the_pinned_sglang() -> None:
    """Read and not imported, which takes seconds. SGLang logs a hook that has no target, and goes on."""
    source = importlib.metadata.distribution("sglang").locate_file("sglang/srt/layers/sampler.py")
    (sampler,) = [
        each
        for each in ast.parse(Path(str(source)).read_text()).body
        if isinstance(each, ast.ClassDef) and each.name == "Sampler"
    ]
    methods = {each.name for each in sampler.body if isinstance(each, ast.FunctionDef)}
    assert cpu_plugin.SYNC.removeprefix("sglang.srt.layers.sampler.Sampler.") in methods
