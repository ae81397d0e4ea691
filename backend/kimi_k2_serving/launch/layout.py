"""The paths of the checkout and of everything that `serve` makes, which is all under .venv and .cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    root: Path
    environment: str = ".venv"

    @property
    def venv(self) -> Path:
        return self.root / self.environment

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def cache(self) -> Path:
        return self.root / ".cache"

    @property
    def backends(self) -> Path:
        return self.cache / "backends"

    @property
    def checkpoints(self) -> Path:
        return self.cache / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.cache / "logs"

    @property
    def run(self) -> Path:
        return self.cache / "run"

    @property
    def requirements(self) -> Path:
        return self.root / "requirements"

    @property
    def model_repository(self) -> Path:
        return self.root / "model_repository"

    @property
    def backend_source(self) -> Path:
        return self.root / "backend" / "sglang"

    @property
    def presets(self) -> Path:
        return self.root / "backend" / "kimi_k2_serving" / "presets"


def checkout() -> Layout:
    """The checkout that this package is imported from; the installation is an editable one."""
    return Layout(Path(__file__).resolve().parents[3])
