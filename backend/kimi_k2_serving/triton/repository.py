"""Lets a step of the ensemble read the engine.yaml of the engine model beside it."""

from __future__ import annotations

from pathlib import Path

from kimi_k2_serving import settings
from kimi_k2_serving.engine.config import EngineConfig, load_engine_config


def engine_config(model_directory: str) -> EngineConfig:
    """`model_directory` is Triton's `model_repository` argument. Raises ServingError."""
    path = Path(model_directory).parent / "kimi_k2_engine" / "1" / "engine.yaml"
    return load_engine_config(path, settings.inherited())
