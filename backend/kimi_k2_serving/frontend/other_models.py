"""The other engine models of Triton's model repository, which the frontend serves by their names.

A model directory belongs to them if its config.pbtxt names the backend `sglang`. A K2 checkpoint is served with chats,
any other with completions. A model that can't be served is left out and the log says why, so that the others are not
affected.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.engine.config import EngineConfig, load_engine_config

logger = logging.getLogger(__name__)

BACKEND = 'backend:"sglang"'


def engine_directories(repository: Path) -> Iterator[Path]:
    """The directories of models with our backend, by name."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        # The field has a line of its own in every file that Triton or a person writes.
        lines = path.read_text("utf-8", "replace").splitlines()
        if any("".join(line.partition("#")[0].split()) == BACKEND for line in lines):
            yield path.parent


def other_configs(repository: Path, environ: Mapping[str, str], *, taken: Collection[str]) -> dict[str, EngineConfig]:
    """The configurations by model name, without the models in `taken` and those whose engine.yaml can't be read."""
    found: dict[str, EngineConfig] = {}
    for directory in engine_directories(repository):
        if directory.name in taken:
            continue
        try:
            found[directory.name] = load_engine_config(directory / "1" / "engine.yaml", environ)
        except ServingError as error:
            leave_out(directory.name, error)
    return found


def other_models(configs: Mapping[str, EngineConfig]) -> Iterator[ChatModel]:
    for name, config in configs.items():
        try:
            yield ChatModel.load_any(config, name=name)
        except ServingError as error:
            leave_out(name, error)


def leave_out(name: str, error: ServingError) -> None:
    logger.error("model %s is served by Triton alone: %s", name, error)
