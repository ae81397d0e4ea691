"""Lets a step of the ensemble read the engine.yaml of the engine model in the same repository."""

from __future__ import annotations

from pathlib import Path

from kimi_k2_serving import settings
from kimi_k2_serving.engine.config import EngineConfig, load_engine_config


def engine_config(model_directory: str) -> EngineConfig:
    """The engine's configuration. `model_directory`: Triton's `model_repository` argument. Raises ServingError."""
    path = Path(model_directory).parent / "kimi_k2_engine" / "1" / "engine.yaml"
    return load_engine_config(path, settings.inherited())
