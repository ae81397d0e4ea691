"""SGLang's CPU device operations as an out-of-tree platform with attention in blocks (cpu_attention.py).

SGLang's in-tree CPU engine needs its AMX kernel package; an out-of-tree platform uses the pure torch paths instead.
It is slow and has no fp8, which needs AMX or a GPU: it is for development and for the demo checkpoint.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.interface import PlatformEnum, SRTPlatform

from kimi_k2_serving.engine.cpu_plugin import NAME


class CpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """Any x86-64 CPU with AVX2."""

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        return NAME

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False
