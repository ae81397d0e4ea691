"""A training run on disk: what is needed to go on after an interruption, and the curve so far.

`state.safetensors` holds the parameters (float32) and the optimizer's two moments; `run.json` the rest. Both are
written to a new directory, which then takes the old one's place.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kimi_k2_serving.demo.training.network import Network

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Point:
    """One report of the curve. The losses, nats per token, are means since the last report; `seconds` of training."""

    step: int
    answer_loss: float
    prompt_loss: float
    seconds: float
    tokens: int


@dataclass(slots=True)
class RunProgress:
    """Where a run stands, after all its starts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    starts: int = 0
    curve: list[Point] = field(default_factory=list)


def save(directory: Path, network: Network, optimizer: torch.optim.AdamW, progress: RunProgress) -> None:
    """Write the run's state: all of it, or nothing."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    tensors = {f"network.{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    steps = 0.0
    for parameter, state in optimizer.state.items():
        steps = float(state["step"])
        for moment in MOMENTS:
            tensors[f"{moment}.{names[parameter]}"] = state[moment].detach().cpu().contiguous()
    new = directory.with_name(directory.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(tensors, new / "state.safetensors")
    document = {"optimizer_steps": steps, "progress": dataclasses.asdict(progress)}
    (new / "run.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    new.rename(directory)


def restored(directory: Path, network: Network, optimizer: torch.optim.AdamW) -> RunProgress:
    """Restore a saved run, or start one if there is none. Raises KeyError for the state of another network."""
    if not (directory / "run.json").is_file():
        return RunProgress()
    document = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    tensors = load_file(directory / "state.safetensors")
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    for name, parameter in network.named_parameters():
        state: dict[str, Tensor] = {
            moment: tensors[f"{moment}.{name}"].to(parameter.device)
            for moment in MOMENTS
            if f"{moment}.{name}" in tensors
        }
        if state:
            optimizer.state[parameter] = state | {"step": torch.tensor(document["optimizer_steps"])}
    saved = document["progress"]
    return RunProgress(**saved | {"curve": [Point(**point) for point in saved["curve"]]})
