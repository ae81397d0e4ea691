"""Notices: lines `path: why` in an answer about the parts of its request that have no effect. None is lost silently."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kimi_k2_serving.core.typed_json import Object

# How many lines one answer has at most.
MOST_NOTICES = 32
NAME_CHARACTERS = 64
ELSEWHERE = "left out: this server runs no tools; run it in the client, or declare a function for it"
NO_SEED = "has no effect: this engine draws from one random generator for all requests"


@dataclass(slots=True)
class Notices:
    """`left_out`: the notices that contain no text of the client."""

    left_out: list[str] = field(default_factory=list)
    _ignored: dict[str, None] = field(default_factory=dict)

    def leave_out(self, path: str, why: str = ELSEWHERE) -> None:
        """Add a notice about a part of the request that this server does not serve."""
        self.left_out.append(f"{path}: {why}")

    def ignore(self, source: Object, path: str, known: Collection[str]) -> None:
        """Add a notice for each key of `source` that is not in `known`; null asks for nothing and needs none."""
        for name, value in source.items():
            if name not in known and value is not None and len(self._ignored) < MOST_NOTICES:
                self._ignored[f"{path}.{name[:NAME_CHARACTERS]}: ignored"] = None

    def seeded(self, sampling: Mapping[str, object], *, heeded: bool) -> None:
        if "sampling_seed" in sampling and not heeded:
            self.leave_out("seed", NO_SEED)

    @property
    def lines(self) -> list[str]:
        return [*self.left_out, *self._ignored][:MOST_NOTICES]
