"""What SGLang's own loader makes of a checkpoint with K2's published names in block fp8, on a machine without a GPU.

`python -m tests.twin.loader` prints one JSON object: by name of the case, what was wrong. SGLang's real configuration,
model class, safetensors reader and `load_weights` run, on one CPU rank. Faked are only the widths and the weights, and
the loader stops before `process_weights_after_loading`, which rewrites loaded weights for the kernels of the device.

After loading, the model's fused parameters are taken apart into the published tensors again. These must be, by name,
shape, type and bytes, those of the checkpoint; what the checkpoint did not fill holds NaN and differs.
"""

from __future__ import annotations

import json
import logging
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kimi_k2_serving.demo.architecture import Architecture, config
from kimi_k2_serving.engine.cpu_plugin import NAME, mend_torchvision, register
from tests.twin.published import BLOCK_ROWS, Stored, stored
from tests.twin.shape import QUANTIZATION, WHOLE

LAYERS = 2
# As in K2, kv_a_proj_with_mqa ends in half a block; it is fused with q_a_proj, which ends with a whole one.
SMALL = Architecture(
    hidden=256,
    layers=LAYERS,
    query_rank=256,
    key_value_rank=128,
    nope_head=128,
    rope_head=64,
    value_head=128,
    dense_intermediate=384,
    expert_intermediate=128,
    vocabulary=512,
    context=WHOLE.context,
)
# What an attention layer holds for an fp8 cache; 1 unless a checkpoint says otherwise, and K2's does not.
CACHE_SCALES = (".k_scale", ".v_scale")

Tensors = dict[str, Any]
EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"
FUSED = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"


def short_scale(tensors: Tensors) -> Tensors:
    """The scale of the incomplete block is missing."""
    return tensors | {f"{FUSED}_scale_inv": tensors[f"{FUSED}_scale_inv"][:-1]}


def renamed_scale(tensors: Tensors) -> Tensors:
    return {name.replace(f"{EXPERT}_scale_inv", f"{EXPERT}_zero_point"): each for name, each in tensors.items()}


def without_scale(tensors: Tensors) -> Tensors:
    return {name: each for name, each in tensors.items() if name != f"{EXPERT}_scale_inv"}


def unchanged(tensors: Tensors) -> Tensors:
    return tensors


CASES: dict[str, Callable[[Tensors], Tensors]] = {
    "as published": unchanged,
    "a scale too short": short_scale,
    "a scale renamed": renamed_scale,
    "a scale missing": without_scale,
}


def main() -> None:
    mend_torchvision()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        configure(directory, SMALL)
        prepare(directory)
        for name, change in CASES.items():
            found[name] = load(directory, change(checkpoint()))
        found["published widths"] = whole(directory / "whole")
    print(json.dumps(found))


def configure(directory: Path, shape: Architecture) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**config(shape), "quantization_config": QUANTIZATION}))


def prepare(directory: Path) -> None:
    """Make this process what a scheduler of SGLang is before it loads its model."""
    import sglang.srt.arg_groups.pipeline  # noqa: F401
    from sglang.srt import runtime_context
    from sglang.srt.distributed import bootstrap
    from sglang.srt.server_args import ServerArgs

    register()
    arguments = ServerArgs(
        model_path=str(directory),
        skip_tokenizer_init=True,
        device="cpu",
        attention_backend=NAME,
        sampling_backend="pytorch",
        grammar_backend="none",
        disable_cuda_graph=True,
    )
    runtime_context.publish(arguments, role="scheduler", ranks=runtime_context.SpawnRanks(world_rank=0, gpu_id=0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    bootstrap.init_parallel_runtime(server_args=arguments, device="cpu", dist_port=port)


def build(directory: Path, device: str) -> tuple[Any, Any, Any]:
    """The model, its loader and its configuration."""
    import torch
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader import loader
    from sglang.srt.model_loader.utils import set_default_torch_dtype
    from sglang.srt.runtime_context import get_server_args

    wanted = ModelConfig.from_server_args(get_server_args(), model_path=str(directory))
    reader = loader.DefaultModelLoader(LoadConfig())
    with set_default_torch_dtype(wanted.dtype), torch.device(device):
        quantization = loader._get_quantization_config(wanted, reader.load_config)
        return loader._initialize_model(wanted, reader.load_config, quantization), reader, wanted


def checkpoint() -> Tensors:
    """Every tensor with numbers of its own; none is NaN."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return {each.name: random(each, generator) for each in stored(SMALL)}


def random(each: Stored, generator: Any) -> Any:
    import torch

    match each.dtype:
        case "F8_E4M3":
            return torch.randint(0x7E, each.shape, generator=generator, dtype=torch.uint8).view(torch.float8_e4m3fn)
        case "BF16":
            return torch.rand(each.shape, generator=generator).bfloat16()
        case _:
            return torch.rand(each.shape, generator=generator)


class Left(logging.Handler):
    """Names of the checkpoint that SGLang has no parameter for: it logs them, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not found in params_dict" in record.getMessage():
            self.names.append(record.getMessage().split()[0])


def load(directory: Path, tensors: Tensors) -> dict[str, Any]:
    """Load a checkpoint of these tensors: the error, the names left over, and the published tensors that differ."""
    import torch
    from safetensors.torch import save_file

    save_file(tensors, directory / "model-00001-of-000001.safetensors")
    model, reader, wanted = build(directory, "cpu")
    for name, parameter in model.named_parameters():
        if not name.endswith(CACHE_SCALES):
            parameter.data.copy_(torch.full(parameter.shape, torch.nan))
    left, error = Left(), ""
    logging.getLogger("sglang").addHandler(left)
    try:
        reader.load_weights_only(model, reader._get_all_weights(wanted, model), torch.device("cpu"))
    except Exception as problem:
        error = type(problem).__name__
    logging.getLogger("sglang").removeHandler(left)
    expected, parts = checkpoint(), dict(apart(model, SMALL))
    differ = [name for name in expected.keys() | parts.keys() if not same(expected.get(name), parts.get(name))]
    return {"error": error, "left": sorted(left.names), "differ": sorted(differ), "names": len(parts)}


def same(one: Any, other: Any) -> bool:
    import torch

    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def apart(model: Any, shape: Architecture) -> Iterator[tuple[str, Any]]:
    """The model's parameters under the published names."""
    for name, parameter in model.named_parameters():
        data = parameter.data
        if name.endswith(CACHE_SCALES):
            continue
        if "fused_qkv_a_proj_with_mqa" in name:
            rows = shape.query_rank // (BLOCK_ROWS if name.endswith("_scale_inv") else 1)
            yield name.replace("fused_qkv_a_proj_with_mqa", "q_a_proj"), data[:rows]
            yield name.replace("fused_qkv_a_proj_with_mqa", "kv_a_proj_with_mqa"), data[rows:]
        elif "gate_up_proj" in name:
            for half, part in zip(("gate_proj", "up_proj"), data.chunk(2), strict=True):
                yield name.replace("gate_up_proj", half), part
        elif ".experts.w13_" in name:
            for expert, both in enumerate(data):
                for half, part in zip(("gate_proj", "up_proj"), both.chunk(2), strict=True):
                    yield name.replace("w13_", f"{expert}.{half}."), part
        elif ".experts.w2_" in name:
            for expert, part in enumerate(data):
                yield name.replace("w2_", f"{expert}.down_proj."), part
        else:
            yield name, data


def whole(directory: Path) -> dict[str, Any]:
    """K2's own widths and experts in two layers, without memory: name, shape and bytes of every tensor."""
    shape = replace(WHOLE, layers=LAYERS)
    configure(directory, shape)
    parts = dict(apart(build(directory, "meta")[0], shape))
    kinds = {name: (tuple(part.shape), part.element_size()) for name, part in parts.items()}
    expected = {each.name: (each.shape, each.itemsize) for each in stored(shape)}
    differ = [name for name in kinds.keys() | expected.keys() if kinds.get(name) != expected.get(name)]
    return {"differ": sorted(differ), "names": len(kinds), "bytes": sum(part.nbytes for part in parts.values())}


if __name__ == "__main__":
    main()
