"""The `sglang` backend's model: starts an `EngineService` for a model directory, and completes its config.pbtxt.

`start` blocks until the engine serves. So a model that Triton has loaded can answer, and if the engine can't start, the
load fails.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from kimi_k2_serving import settings
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.engine import build, shared_memory
from kimi_k2_serving.engine.abort_channel import TOKENS, socket_path
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.engine.config import Restart, load_engine_config
from kimi_k2_serving.engine.text import load_encoder
from kimi_k2_serving.triton import journal
from kimi_k2_serving.triton.engine.service import EngineService
from kimi_k2_serving.triton.engine.serving import Serving
from kimi_k2_serving.triton.server_watch import TritonServer
from kimi_k2_serving.triton.signatures import ENGINE_INPUTS, ENGINE_OUTPUTS, TensorSpec

# Python's thread switch interval. Triton's thread waits for the GIL once per request, up to this long. With Python's
# default of 5 ms, a hundred refusals in a row would take half a second.
SWITCH_SECONDS = 0.0005


def complete_config(config: Any) -> Any:
    """Add the tensors of `signatures` that config.pbtxt does not list. So a model directory need not list any."""
    described = config.as_dict()
    have = {each["name"] for each in [*described["input"], *described["output"]]}
    for tensor in ENGINE_INPUTS:
        if tensor.name not in have:
            config.add_input({**declaration(tensor), "optional": True})
    for tensor in ENGINE_OUTPUTS:
        if tensor.name not in have:
            config.add_output(declaration(tensor))
    config.set_max_batch_size(0)
    config.set_model_transaction_policy({"decoupled": True})
    return config


def declaration(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": tensor.data_type, "dims": list(tensor.dims)}


def start(args: dict[str, str]) -> EngineService:
    """`args` are those of Triton's `initialize`. Raises TritonModelException with one line that says what to do."""
    journal.begin(args["model_name"])
    sys.setswitchinterval(SWITCH_SECONDS)
    shared_memory.make_private(os.getpid())
    refuse_several_instances(json.loads(args["model_config"]))
    try:
        service, preset = configure(Path(args["model_repository"]) / args["model_version"], args["model_name"])
        info = service.start()
    except ServingError as error:
        raise pb_utils.TritonModelException(str(error)) from None
    journal.info(
        f"{info.engine}: context {info.context_length}, KV pool {info.kv_capacity} tokens, "
        f"started in {info.start_seconds:.1f} s, preset {preset}"
    )
    return service


def configure(directory: Path, model: str) -> tuple[EngineService, str]:
    """The service for a model version's directory, not yet started, and the name of its preset."""
    own = settings.Settings.read()
    environ = settings.inherited()
    config = load_engine_config(directory / "engine.yaml", environ)
    checkpoint = inspect_checkpoint(config.checkpoint)
    # All models under one Triton process must use the same directory.
    runtime = settings.runtime_directory(os.getppid(), own)
    engine = build.build_supervised(
        config,
        checkpoint,
        cache=own.cache,
        runtime=runtime,
        environ=environ,
        server=os.getppid(),
        token_socket=socket_path(runtime, model, TOKENS),
        warm_up=own.warm_up,
        trace_endpoint=own.trace_endpoint,
    )
    encoder = load_encoder(checkpoint, own.cache, parse_special=config.parse_special)
    serving = Serving(
        model=model,
        runtime=runtime,
        capacity=config.admission,
        slow_reader_seconds=config.preset.slow_reader_seconds,
        server=TritonServer.of_process(os.getppid()),
        parent=os.getppid(),
        ends_server=config.restart is Restart.POD,
        adapters=tuple(config.adapters),
    )
    return EngineService(engine, encoder, serving), config.preset.name


def refuse_several_instances(config: dict[str, Any]) -> None:
    """Raise TritonModelException if the model has several instances: each would load the weights again."""
    count = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    if count > 1:
        raise pb_utils.TritonModelException(
            f"invalid_value: instance_group.count: must be 1, got {count}: one instance serves all requests at once"
        )
