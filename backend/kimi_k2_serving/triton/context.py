"""`request_context`: what postprocess has to know of a request, carried through the engine as an opaque string.

First line the uid, then one line of JSON. The engine repeats it whole with the first response, then only the uid.
Schemas are part of it only where a grammar could not hold them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.grammar.inspection import Relaxed


@dataclass(frozen=True, slots=True)
class RequestContext:
    uid: str
    stream: bool
    tools: tuple[str, ...]
    first_index: int
    parallel: bool
    stops: tuple[str, ...]
    relaxed: Relaxed | None = None

    def encode(self) -> str:
        rest: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "uid"
        }
        rest["relaxed"] = None if self.relaxed is None else self.relaxed.encode()
        return f"{self.uid}\n{json.dumps(rest)}"

    @classmethod
    def decode(cls, text: str) -> RequestContext | str:
        """The context, or the uid alone."""
        uid, _, rest = text.partition("\n")
        if not rest:
            return uid
        data = json.loads(rest)
        relaxed = data.get("relaxed")
        return cls(
            uid,
            data["stream"],
            tuple(data["tools"]),
            data["first_index"],
            data["parallel"],
            tuple(data["stops"]),
            None if relaxed is None else Relaxed.decode(relaxed),
        )
