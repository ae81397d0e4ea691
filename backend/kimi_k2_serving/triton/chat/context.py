"""`request_context`: what postprocess has to know of a request, carried through the engine as an opaque string.

    uid tag                  the engine repeats this line with every response
    tag {"expires": ...}     and these with the first
    {"places": ...}          `Relaxed`, where a grammar could not hold a schema: not decoded before it is needed

Each tag is a `Seal`'s: the first over the uid, so that knowing a uid is not enough to feed or end its answer, the
second over all the rest.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.limits import CONTEXT_BYTES, REQUEST_ID_BYTES
from kimi_k2_serving.triton.chat.seal import TAG_CHARACTERS, Seal

# The longest `timeout_ms`: without streaming, the first response is the last.
LIFE_SECONDS = 24 * 3600.0
# Characters: a uid as engine models take it, a space, a tag.
MOST_ADDRESS = REQUEST_ID_BYTES.value + 1 + TAG_CHARACTERS
FIELD = "request_context"


@dataclass(frozen=True, slots=True)
class RequestContext:
    uid: str
    stream: bool
    tools: tuple[str, ...]
    first_index: int
    parallel: bool
    stops: tuple[str, ...]
    # `Relaxed` as JSON: decoded, it takes several times the memory.
    relaxed: str | None = None
    # The output of that name, as it will be given.
    notices: str | None = None

    @property
    def size(self) -> int:
        return len(self.relaxed or "") + len(self.notices or "")

    def encode(self, seal: Seal, now: float) -> str:
        """`now` is the machine's monotonic clock. Raises LimitExceeded: only schemas can make it large."""
        rest: dict[str, Any] = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "uid"
        }
        del rest["relaxed"]
        line, data = address(self.uid, seal), json.dumps({"expires": now + LIFE_SECONDS, **rest})
        if self.relaxed is not None:
            data = f"{data}\n{self.relaxed}"
        CONTEXT_BYTES.check(len(data), field="tools" if self.tools else "response_format")
        return f"{line}\n{seal.tag('context', line, data)} {data}"

    @classmethod
    def decode(cls, text: str, seal: Seal, now: float) -> RequestContext:
        """A first response's. Raises InvalidValue for whatever `encode` did not make, or made too long ago."""
        line = address_of(text)
        tag, _, data = text[len(line) + 1 :].partition(" ")
        if len(data) > CONTEXT_BYTES.value or not seal.holds(tag, "context", line, data):
            raise foreign()
        # From here on it is what `encode` wrote.
        head, _, relaxed = data.partition("\n")
        fields = json.loads(head)
        if now >= fields["expires"]:
            raise foreign()
        return cls(
            line.partition(" ")[0],
            fields["stream"],
            tuple(fields["tools"]),
            fields["first_index"],
            fields["parallel"],
            tuple(fields["stops"]),
            relaxed or None,
            fields["notices"],
        )


def address(uid: str, seal: Seal) -> str:
    """The first line."""
    return f"{uid} {seal.tag('uid', uid)}"


def addressed(text: str, seal: Seal) -> str:
    """The uid of a context or of its first line. Raises InvalidValue where that is not ours."""
    line = address_of(text)
    uid, _, tag = line.partition(" ")
    if not seal.holds(tag, "uid", uid):
        raise foreign()
    return uid


def address_of(text: str) -> str:
    """The first line of a context. Raises InvalidValue where it is longer than any of ours."""
    line = text[: MOST_ADDRESS + 1].partition("\n")[0]
    if len(line) > MOST_ADDRESS:
        raise foreign()
    return line


def foreign() -> InvalidValue:
    return InvalidValue("not made by this server, or made too long ago; call kimi_k2", field=FIELD)
