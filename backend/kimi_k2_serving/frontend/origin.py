"""Where the parts of a chat request stood in what the client sent, and what of that was left out.

Dialects are read into OpenAI's chat; errors and reports of it name chat's paths. `Origin` gives them the client's own.
`notices` is what an answer says beside `enforcement`: lines `path: what`, of things that have no effect.
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
    """`places`: chat's path -> the client's. `translated`: whether the client's request has become a chat request, so
    that errors are of that.
    """

    places: dict[str, str] = field(default_factory=dict)
    translated: bool = False

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
        """`parse_message` of a line `path: what`."""
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

    def written(self) -> list[Any]:
        """What is still of use once the request is read: no error will name a message any more."""
        places = {ours: theirs for ours, theirs in self.places.items() if not ours.startswith("messages")}
        return [places, self.left_out, self.translated, list(self._ignored)]

    @classmethod
    def of(cls, written: list[Any]) -> Origin:
        places, left_out, translated, ignored = written
        return cls(left_out, dict.fromkeys(ignored), places, translated)
