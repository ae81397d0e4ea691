"""SGLang on a plain CPU, through SGLang's own extension points (entry points in pyproject.toml).

`activate` answers SGLang's platform discovery: our CPU platform on a machine without an accelerator, None elsewhere, so
that installing this package changes nothing on a GPU host. `SGLANG_PLATFORM=kimi_k2_cpu` forces it (`serve --cpu`).
`register` adds the attention backend `kimi_k2_cpu` (cpu_attention.py) with the absorbed-MLA path that DeepSeek-V3
architectures need, and hooks that save time: at every step with a grammar, at the start, and while idle. Neither
imports SGLang or torch before it is called.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine import linux

NAME = "kimi_k2_cpu"
SYNC = "sglang.srt.layers.sampler.Sampler._sync_token_ids_across_tp"
PREPARE = "sglang.srt.entrypoints.engine._set_envs_and_config"
GROUPS = "sglang.srt.distributed.bootstrap.init_parallel_runtime"
GROUP_SLACK_SECONDS = 1.0
# Present whenever NVIDIA's kernel driver is loaded, whichever torch build is installed.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def activate() -> str | None:
    """Entry point of group `sglang.srt.platforms`: the platform's qualified name, or None for no platform."""
    if not active():
        return None
    if importlib.util.find_spec("torchvision") is not None:
        mend_torchvision()
    return "kimi_k2_serving.engine.cpu_platform:CpuPlatform"


def active() -> bool:
    """Whether SGLang should use this platform. True if SGLANG_PLATFORM names it, and without that variable if there is
    no accelerator.
    """
    import torch
    from sglang.srt.environ import envs

    forced = envs.SGLANG_PLATFORM.get()
    if forced:
        return bool(forced == NAME)
    accelerator = torch.cuda.is_available() or NVIDIA_DRIVER.exists() or torch.xpu.is_available()
    return not accelerator


def register() -> None:
    """Entry point of group `sglang.srt.plugins`: SGLang runs it once per engine process, before it builds the model."""
    if not active():
        return
    from sglang.srt.layers.attention.attention_registry import register_attention_backend
    from sglang.srt.models.deepseek_common import attention_backend_handler as handlers
    from sglang.srt.server_args import add_attention_backend_choices

    def blocks(runner: Any) -> Any:
        from kimi_k2_serving.engine.cpu_attention import CpuAttentionBackend

        return CpuAttentionBackend(runner)

    def absorbed_mla(attention: Any, batch: Any) -> Any:
        return handlers.AttnForwardMethod.MLA

    register_attention_backend(NAME)(blocks)
    add_attention_backend_choices([NAME])
    handlers.AttentionBackendRegistry.register(NAME, absorbed_mla)

    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(SYNC, agree, HookType.AROUND)
    HookRegistry.register(PREPARE, fork_workers, HookType.AFTER)
    HookRegistry.register(GROUPS, make_groups, HookType.AROUND)


def agree(original: Any, sampler: Any, *args: Any) -> None:
    """Do the all-reduce over sampled ids only with several ranks, because Gloo takes time for it even with one."""
    import torch.distributed

    if torch.distributed.get_world_size(sampler.tp_sync_group) > 1:
        original(sampler, *args)


def fork_workers(result: None, *args: Any) -> None:
    """Make SGLang fork its schedulers instead of spawning them, so that they need not import SGLang again. This is for
    a CPU only, because a forked process can't use CUDA. It is safe because SGLang starts its threads later.
    """
    import multiprocessing
    from multiprocessing import resource_tracker

    # All processes share one resource tracker, as spawned processes do.
    resource_tracker.ensure_running()
    multiprocessing.set_start_method("fork", force=True)


def make_groups(original: Any, *args: Any, **named: Any) -> Any:
    """Give the threads that Gloo starts here a large timer slack. There is one for each of nine groups, and each wakes
    every 10 ms to see if it should end. Messages still wake them at once.
    """
    with linux.timer_slack(GROUP_SLACK_SECONDS):
        return original(*args, **named)


def mend_torchvision() -> None:
    """Make `import torchvision` work with a CPU torch; do nothing if it already works.

    PyPI's torchvision is built for the CUDA torch: with the CPU torch its compiled library does not load, and then its
    Python code refers to undeclared operators. SGLang imports it for images, which K2 does not have.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        torchvision_schemas()


@functools.cache
def torchvision_schemas() -> Any:
    """Declare the two operators that torchvision refers to at import. The cache keeps the library alive: its schemas
    disappear with it.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
