"""What of a request has no effect, as lines `path: what` that every answer to it gives: nothing is lost in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kimi_k2_serving.core.typed_json import Object

# Lines in one answer; a client that sends more of them has seen enough.
MOST_NOTICES = 32
NAME_CHARACTERS = 64
ELSEWHERE = "left out: this server runs no tools; whoever sends this runs it, or declares a function"
NO_SEED = "has no effect: this engine draws from one generator for all requests"


@dataclass(slots=True)
class Notices:
    """`left_out`: those that hold no text of the client."""

    left_out: list[str] = field(default_factory=list)
    _ignored: dict[str, None] = field(default_factory=dict)

    def leave_out(self, path: str, why: str = ELSEWHERE) -> None:
        """Something of the request that is not served, and is not ignored in silence."""
        self.left_out.append(f"{path}: {why}")

    def ignore(self, source: Object, path: str, known: Collection[str]) -> None:
        """Keys of an object below the top level that nobody reads; null asks for nothing."""
        for name, value in source.items():
            if name not in known and value is not None and len(self._ignored) < MOST_NOTICES:
                self._ignored[f"{path}.{name[:NAME_CHARACTERS]}: ignored"] = None

    def seeded(self, sampling: Mapping[str, object], *, heeded: bool) -> None:
        if "sampling_seed" in sampling and not heeded:
            self.leave_out("seed", NO_SEED)

    @property
    def lines(self) -> list[str]:
        return [*self.left_out, *self._ignored][:MOST_NOTICES]
