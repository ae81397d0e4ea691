"""The source tree as data: its files, its modules, and the imports of each module. Sources are parsed, not imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "kimi_k2_serving"
PRODUCTION = ("backend", "client", "model_repository")
TEXT = (".cfg", ".ebnf", ".json", ".md", ".pbtxt", ".py", ".toml", ".txt", ".yaml", ".yml", "")
NOT_OURS = {".venv", ".cache", ".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Module:
    """A source file. `name` is its dotted import name; the name of a Triton model.py is made of its directories."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def group(self) -> str:
        """The part of the package that it belongs to, such as `core`; for other modules their top-level package."""
        first, *rest = self.name.split(".")
        return rest[0] if first == PACKAGE and rest else first

    def imports(self) -> Iterator[str]:
        """The dotted names of its imports; `from a import b` yields `a.b`."""
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    yield from (f"{module}.{alias.name}" for alias in names)
                case ast.ImportFrom():
                    yield "relative"

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def files() -> Iterator[Path]:
    """Every file of the project except built and cached ones."""
    for top in sorted(ROOT.iterdir()):
        if top.name in NOT_OURS or top.name.endswith(".egg-info") or top.name == "build":
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not NOT_OURS.intersection(path.relative_to(ROOT).parts):
                yield path


@cache
def modules(*tops: str) -> tuple[Module, ...]:
    """The modules under these top-level folders."""
    return tuple(
        Module(path, _name(path), ast.parse(path.read_text("utf-8")))
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in tops
    )


def third_party(dotted: str) -> bool:
    return dotted.split(".")[0] not in sys.stdlib_module_names


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] in ("model_repository", "tests") or parts[1] == "sglang" else parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
