"""Tells the launcher that an engine was given up for good, and why, through a file in the runtime directory (0700).

Triton 24.10 still reports such a model as ready. The engine model writes the file and the launcher looks for it. Unlike
a port, a file in this directory can't be forged by a client. With `restart: pod` the server is ended, too.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from kimi_k2_serving.engine.abort_channel import socket_path

SUFFIX = ".given-up"


class GivenUp:
    """The file of one engine model. `tell` may be called again. `server`: the process that `tell` ends, if any."""

    def __init__(self, runtime: Path, model: str, server: int | None = None) -> None:
        self._server = server
        self._why = "keeps dying and was given up" if server is None else "has ended, and restart is pod"
        self._path = socket_path(runtime, model).with_suffix(SUFFIX)
        self._model = model
        self._written = False

    def tell(self) -> None:
        """Write the file. Raises OSError if it can't be written; the next call tries again."""
        if not self._written:
            draft = self._path.with_suffix(".new")
            draft.write_text(f"the engine of {self._model} {self._why}", encoding="utf-8")
            draft.replace(self._path)
            self._written = True
            if self._server is not None:
                os.kill(self._server, signal.SIGTERM)

    def withdraw(self) -> None:
        self._written = False
        self._path.unlink(missing_ok=True)


def why_given_up(runtime: Path) -> str | None:
    """The model whose engine was given up and the reason, as text; None if no engine was given up."""
    for path in sorted(runtime.glob(f"*{SUFFIX}")):
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            continue
    return None
