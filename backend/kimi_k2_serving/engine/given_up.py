"""How the launcher learns that an engine was given up for good: a file in the runtime directory (0700).

Triton 24.10 goes on calling such a model ready. Whoever serves the engine writes the file, whoever watches the server
looks whether it is there; no port has to be asked, and no client can make one up.
"""

from __future__ import annotations

from pathlib import Path

from kimi_k2_serving.engine.abort_channel import socket_path

SUFFIX = ".given-up"


class GivenUp:
    """One engine model's; `tell` may be called as often as one likes."""

    def __init__(self, runtime: Path, model: str) -> None:
        self._path = socket_path(runtime, model).with_suffix(SUFFIX)
        self._model = model
        self._told = False

    def tell(self) -> None:
        """Raises OSError where the file can't be written; the next call tries again."""
        if not self._told:
            beside = self._path.with_suffix(".new")
            beside.write_text(self._model, encoding="utf-8")
            beside.replace(self._path)
            self._told = True

    def withdraw(self) -> None:
        self._told = False
        self._path.unlink(missing_ok=True)


def given_up_model(runtime: Path) -> str | None:
    """The name of a model whose engine was given up; None if there is none."""
    for path in sorted(runtime.glob(f"*{SUFFIX}")):
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            continue
    return None
