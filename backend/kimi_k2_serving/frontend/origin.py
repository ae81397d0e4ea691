"""Where the parts of a chat request stood in what the client sent, and what of that was left out.

Dialects are read into OpenAI's chat; errors and reports of it name chat's paths. `Origin` gives them the client's own.
`notices` is what an answer says beside `enforcement`: lines `path: what`, of things that have no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.shapes import Object

# Lines in one answer; a client that sends more of them has seen enough.
MOST_NOTICES = 32
ELSEWHERE = "left out: this server runs no tools; whoever sends this runs it, or declares a function"
NO_SEED = "has no effect: this engine draws from one generator for all requests"


@dataclass(slots=True)
class Origin:
    """`places`: chat's path -> the client's. `left_out`: those notices that hold no text of the client. `translated`:
    whether the client's request has become a chat request, so that errors are of that.
    """

    places: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    translated: bool = False
    _ignored: dict[str, None] = field(default_factory=dict)

    def place(self, ours: str, theirs: str) -> None:
        self.places[ours] = theirs

    def told(self, path: str) -> str:
        """The longest beginning that is known is put in the client's words; a path that is not known stays."""
        end = len(path)
        while end > 0:
            if (theirs := self.places.get(path[:end])) is not None:
                return theirs + path[end:]
            end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
        return path

    def place_of(self, line: str) -> str:
        """`told` of a line `path: what`."""
        path, separator, rest = line.partition(": ")
        return f"{self.told(path)}{separator}{rest}"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What fails inside names the client's field."""
        try:
            yield
        except ServingError as error:
            if self.translated:
                error.field = self.told(error.field)
            raise

    def leave_out(self, path: str, why: str = ELSEWHERE) -> None:
        """Something of the request that is not served, and is not ignored in silence."""
        self.left_out.append(f"{path}: {why}")

    def ignore(self, source: Object, path: str, known: Collection[str]) -> None:
        """Keys of an object below the top level that nobody reads; null asks for nothing."""
        for name, value in source.items():
            if name not in known and value is not None and len(self._ignored) < MOST_NOTICES:
                self._ignored[f"{path}.{name[:64]}: ignored"] = None

    def seeded(self, sampling: Mapping[str, object]) -> None:
        if "sampling_seed" in sampling:
            self.left_out.append(f"seed: {NO_SEED}")

    def written(self) -> list[Any]:
        """What is still of use once the request is read: no error will name a message any more."""
        places = {ours: theirs for ours, theirs in self.places.items() if not ours.startswith("messages")}
        return [places, self.left_out, self.translated, list(self._ignored)]

    @classmethod
    def of(cls, written: list[Any]) -> Origin:
        places, left_out, translated, ignored = written
        return cls(places, left_out, translated, dict.fromkeys(ignored))

    @property
    def notices(self) -> list[str]:
        return [*self.left_out, *self._ignored][:MOST_NOTICES]
