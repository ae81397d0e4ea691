"""The surroundings that the engine model's service needs to know: names, directories, limits, and its Triton server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.engine.admission import Capacity
from kimi_k2_serving.triton.server_watch import TritonServer


@dataclass(frozen=True, slots=True)
class Serving:
    """`runtime`: the directory of the abort channel. `server`: the Triton of this stub. `parent`: its process id.
    Either is None if there is none to watch. `ends_server`: whether a death of the engine ends Triton. `adapters`: the
    names that requests may use.
    """

    model: str
    runtime: Path
    capacity: Capacity
    slow_reader_seconds: float
    server: TritonServer | None = None
    parent: int | None = None
    ends_server: bool = False
    adapters: tuple[str, ...] = ()
