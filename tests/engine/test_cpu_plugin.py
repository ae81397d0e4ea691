"""What the CPU plugin changes in SGLang; that the platform serves is held by every test with a real engine."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kimi_k2_serving.engine import cpu_plugin
from kimi_k2_serving.engine.config import load_preset, preset_names


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


def test_the_cpu_presets_and_no_others_take_the_plugin_s_attention() -> None:
    """On a GPU the plugin registers nothing, so that SGLang would refuse the name."""
    for name in preset_names():
        preset = load_preset(name, {"KIMI_K2_DIST_INIT_ADDR": "10.0.0.1:20000"})
        cpu = preset.hardware["accelerator"] == "cpu"
        assert (preset.server_args.get("attention_backend") == cpu_plugin.NAME) == cpu


def test_on_a_gpu_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_plugin, "active", lambda: False)
    monkeypatch.setitem(sys.modules, "sglang.srt.layers.attention.attention_registry", None)
    cpu_plugin.register()
