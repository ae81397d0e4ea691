"""`request_context`: what postprocess has to know of a request, carried through the engine as an opaque string.

First line the uid, then one line of JSON. The engine repeats it whole with the first response, then only the uid.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestContext:
    uid: str
    stream: bool
    tools: tuple[str, ...]
    first_index: int
    parallel: bool
    stops: tuple[str, ...]

    def encode(self) -> str:
        rest = dataclasses.asdict(self)
        return f"{rest.pop('uid')}\n{json.dumps(rest)}"

    @classmethod
    def decode(cls, text: str) -> RequestContext | str:
        """The context, or the uid alone."""
        uid, _, rest = text.partition("\n")
        if not rest:
            return uid
        data = json.loads(rest)
        return cls(
            uid, data["stream"], tuple(data["tools"]), data["first_index"], data["parallel"], tuple(data["stops"])
        )
