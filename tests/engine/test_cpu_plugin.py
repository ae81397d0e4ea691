"""What the CPU plugin changes in SGLang; that the platform serves is held by every test with a real engine."""

from __future__ import annotations

import ast
import ctypes
import importlib.metadata
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from kimi_k2_serving.engine import cpu_plugin
from kimi_k2_serving.engine.config import load_preset, preset_names

PR_GET_TIMERSLACK = 30


@pytest.mark.parametrize(("ranks", "reductions"), [(1, 0), (2, 1), (16, 1)])
def test_sampled_ids_are_reduced_over_several_ranks_and_never_over_one(
    monkeypatch: pytest.MonkeyPatch, ranks: int, reductions: int
) -> None:
    sizes = {"the sampler's group": ranks}
    monkeypatch.setattr("torch.distributed.get_world_size", sizes.__getitem__)
    sampler, seen = SimpleNamespace(tp_sync_group="the sampler's group"), []
    cpu_plugin.agree(lambda *given: seen.append(given), sampler, "ids", "sampling")
    assert seen == [(sampler, "ids", "sampling")] * reductions


@pytest.mark.parametrize("target", [cpu_plugin.SYNC, cpu_plugin.PREPARE, cpu_plugin.GROUPS])
def test_what_is_wrapped_exists_in_the_pinned_sglang(target: str) -> None:
    """Read and not imported, which takes seconds. SGLang logs a hook that has no target, and goes on."""
    module, _, names = target.partition(".Sampler.")
    names = names or module.rpartition(".")[2]
    module = module if target == cpu_plugin.SYNC else module.rpartition(".")[0]
    source = importlib.metadata.distribution("sglang").locate_file(module.replace(".", "/") + ".py")
    body = ast.parse(Path(str(source)).read_text()).body
    if target == cpu_plugin.SYNC:
        (body,) = [each.body for each in body if isinstance(each, ast.ClassDef) and each.name == "Sampler"]
    assert names in {each.name for each in body if isinstance(each, ast.FunctionDef)}


def test_threads_of_process_groups_may_oversleep_and_no_others() -> None:
    def slack() -> float:
        return float(ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)) / 1e9

    def in_thread() -> float:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(slack).result()

    before = slack()
    assert cpu_plugin.make_groups(lambda *given, **named: (in_thread(), given, named), 1, a=2) == (1.0, (1,), {"a": 2})
    assert slack() == in_thread() == before < 0.001


def test_workers_are_forked_and_share_one_resource_tracker() -> None:
    script = (
        "import multiprocessing; from multiprocessing import resource_tracker as trackers;"
        "from kimi_k2_serving.engine import cpu_plugin; cpu_plugin.fork_workers(None);"
        "print(multiprocessing.get_start_method(), trackers._resource_tracker._fd is not None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fork", "True"]


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
