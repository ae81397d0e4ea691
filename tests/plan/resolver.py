"""Resolves server arguments with SGLang's own pipeline as on a GPU, on a machine without one.

`python -m tests.plan.resolver MAJOR MINOR` reads a JSON list of cases (name, memory_mib, devices, model, server_args,
flags) on standard input. It prints one JSON object: by name, the resolved arguments, the flags as SGLang parses them,
and the bytes of a token's cache as SGLang counts them. Faked are what torch says of its devices, the memory that
nvidia-smi reports, and the compiled kernels, whose packages are only imported while resolving. Each case is resolved in
a process of its own, because SGLang remembers what it resolved.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

KERNELS = ("deep_gemm", "flashinfer", "sgl_kernel")


class Kernels(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages of compiled kernels: every module exists, and every name in it is something."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in KERNELS else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return KernelModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []
        module.__version__ = "99"  # type: ignore[attr-defined]


class KernelModule(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)


def fake_devices(capability: tuple[int, int], memory_mib: int, devices: int) -> None:
    import torch

    size = memory_mib * 2**20
    torch.version.cuda = "13.0"
    properties = SimpleNamespace(
        major=capability[0], minor=capability[1], total_memory=size, name="GPU", multi_processor_count=132
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": devices,
        "get_device_capability": capability,
        "get_device_name": "GPU",
        "get_device_properties": properties,
        "current_device": 0,
        "mem_get_info": (size, size),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def resolve(case: dict[str, Any], capability: tuple[int, int]) -> dict[str, Any]:
    from sglang.srt.arg_groups.lora_hook import check_lora_server_args
    from sglang.srt.server_args import ServerArgs
    from sglang.srt.utils import common

    fake_devices(capability, case["memory_mib"], case["devices"])
    common.get_nvgpu_memory_capacity = lambda: float(case["memory_mib"])
    arguments = ServerArgs(model_path=case["model"], tokenizer_path=case["model"], **case["server_args"])
    arguments.resolve_once()
    # The launch makes this check after the resolution, and it resolves adapters.
    check_lora_server_args(arguments)
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    flags = parser.parse_args(["--model-path", case["model"], *case["flags"]])
    parsed = {name: getattr(flags, name) for name in case["server_args"]}
    return {"resolved": arguments.resolved_dict(), "parsed": parsed, "token_bytes": token_bytes(arguments)}


def token_bytes(arguments: Any) -> int:
    """The bytes of one token's cache as SGLang's pool counts them."""
    import torch
    from sglang.srt.arg_groups.overrides import model_config_of
    from sglang.srt.mem_cache.kv_cache_configurator import calculate_mla_kv_cache_dim

    model = model_config_of(arguments)
    fp8 = arguments.resolved_dict()["kv_cache_dtype"] == "fp8_e4m3"
    kind = torch.float8_e4m3fn if fp8 else torch.bfloat16
    width = calculate_mla_kv_cache_dim(model_config=model, kv_cache_dtype=kind)
    return int(width) * int(model.num_hidden_layers) * int(kind.itemsize)


def apart(case: dict[str, Any], capability: tuple[int, int]) -> Any:
    """Resolve in a forked process. An error is the result too, as text."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            found: Any = resolve(case, capability)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        with os.fdopen(writer, "w") as stream:
            json.dump(found, stream, default=str)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def main(argv: Sequence[str]) -> None:
    capability = (int(argv[0]), int(argv[1]))
    cases = json.load(sys.stdin)
    from kimi_k2_serving.engine.cpu_plugin import mend_torchvision

    mend_torchvision()
    sys.meta_path.insert(0, Kernels())
    fake_devices(capability, cases[0]["memory_mib"], cases[0]["devices"])
    import sglang.srt.arg_groups.pipeline
    import sglang.srt.server_args  # noqa: F401

    print(json.dumps({case["name"]: apart(case, capability) for case in cases}))


if __name__ == "__main__":
    main(sys.argv[1:])
