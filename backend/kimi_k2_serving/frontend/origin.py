"""Maps the paths of a chat request to those of the client's request, and collects notices of parts without effect.

Each dialect is translated to an OpenAI chat request. Errors and reports name its paths; `Origin` translates them back.
Notices are lines `path: what`. An answer has them under `notices`, next to `enforcement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kimi_k2_serving.chat.notices import Notices
from kimi_k2_serving.core.errors import ServingError


@dataclass(slots=True)
class Origin(Notices):
    """`places`: chat's path -> the client's. `translated`: the chat request exists, so errors name its paths."""

    places: dict[str, str] = field(default_factory=dict)
    translated: bool = False

    def place(self, ours: str, theirs: str) -> None:
        self.places[ours] = theirs

    def client_path(self, path: str) -> str:
        """`path` with its longest known prefix replaced by the client's path. An unknown path stays as it is."""
        end = len(path)
        while end > 0:
            if (theirs := self.places.get(path[:end])) is not None:
                return theirs + path[end:]
            end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
        return path

    def place_of(self, line: str) -> str:
        """A line `path: what` with its path translated by `client_path`."""
        path, separator, rest = line.partition(": ")
        return f"{self.client_path(path)}{separator}{rest}"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Make errors that are raised inside the block name the client's field."""
        try:
            yield
        except ServingError as error:
            if self.translated:
                error.field = self.client_path(error.field)
            raise

    def written(self) -> list[Any]:
        """The state for another process, without the places of messages: after reading, no error names a message."""
        places = {ours: theirs for ours, theirs in self.places.items() if not ours.startswith("messages")}
        return [places, self.left_out, self.translated, list(self._ignored)]

    @classmethod
    def of(cls, written: list[Any]) -> Origin:
        places, left_out, translated, ignored = written
        return cls(left_out, dict.fromkeys(ignored), places, translated)
