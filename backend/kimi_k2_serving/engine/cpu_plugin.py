"""SGLang on a plain CPU, through SGLang's own extension points (entry points in pyproject.toml).

`activate` answers SGLang's platform discovery: our CPU platform on a machine without an accelerator, None elsewhere, so
that installing this package changes nothing on a GPU host. `SGLANG_PLATFORM=kimi_k2_cpu` forces it (`serve --cpu`).
`register` teaches the `torch_native` attention backend the absorbed-MLA path that DeepSeek-V3 architectures need, and
spares one rank the agreement with itself that SGLang wants of every step with a grammar. Neither imports SGLang or
torch before it is called.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

NAME = "kimi_k2_cpu"
SYNC = "sglang.srt.layers.sampler.Sampler._sync_token_ids_across_tp"
# Present whenever NVIDIA's kernel driver is loaded, whichever torch build is installed.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def activate() -> str | None:
    """Entry point of group `sglang.srt.platforms`: the platform's qualified name, or None to stand aside."""
    if not active():
        return None
    if importlib.util.find_spec("torchvision") is not None:
        mend_torchvision()
    return "kimi_k2_serving.engine.cpu_platform:CpuPlatform"


def active() -> bool:
    """True where the platform serves: forced by name, or neither an accelerator nor SGLang's own CPU engine is
    there.
    """
    import torch
    from sglang.srt.environ import envs

    forced = envs.SGLANG_PLATFORM.get()
    if forced:
        return bool(forced == NAME)
    accelerator = torch.cuda.is_available() or NVIDIA_DRIVER.exists() or torch.xpu.is_available()
    return not accelerator


def register() -> None:
    """Entry point of group `sglang.srt.plugins`: run once in every engine process, before the model is built."""
    if not active():
        return
    from sglang.srt.models.deepseek_common import attention_backend_handler as handlers

    def absorbed_mla(attention: Any, batch: Any) -> Any:
        return handlers.AttnForwardMethod.MLA

    handlers.AttentionBackendRegistry.register("torch_native", absorbed_mla)

    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(SYNC, agree, HookType.AROUND)


def agree(original: Any, sampler: Any, *args: Any) -> None:
    """The all-reduce over sampled ids where there is more than one rank: Gloo takes its time for one, too."""
    import torch.distributed

    if torch.distributed.get_world_size(sampler.tp_sync_group) > 1:
        original(sampler, *args)


def mend_torchvision() -> None:
    """Make `import torchvision` work beside a CPU torch; do nothing where it works already.

    The registry's torchvision is built for the CUDA torch: its compiled library does not load beside the CPU one, and
    its Python code then names operators nobody declared. SGLang imports it for images, of which K2 has none.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        torchvision_schemas()


@functools.cache
def torchvision_schemas() -> Any:
    """Declare the two operators torchvision refers to at import. Cached: a library's schemas live as long as it
    does.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
