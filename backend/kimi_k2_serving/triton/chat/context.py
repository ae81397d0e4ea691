"""`request_context`: the facts about a request that postprocess needs, sent through the engine as an opaque string.

    uid tag                  the engine returns this line with every response
    tag {"expires": ...}     and the following lines only with the first response
    {"places": ...}          `Relaxed`, if a grammar enforces a schema only in part; decoded when it is needed

A `Seal` makes both tags. The first is over the uid, so that knowing a uid is not enough to feed or end its answer. The
second is over everything else.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.limits import CONTEXT_BYTES, REQUEST_ID_BYTES
from kimi_k2_serving.triton.chat.seal import TAG_CHARACTERS, Seal

# This equals the longest `timeout_ms`: without streaming, the first response comes at the end of the request.
LIFE_SECONDS = 24 * 3600.0
# The longest first line, in characters: the longest uid of an engine model, a space, a tag.
MAX_ADDRESS = REQUEST_ID_BYTES.value + 1 + TAG_CHARACTERS
FIELD = "request_context"


@dataclass(frozen=True, slots=True)
class RequestContext:
    uid: str
    stream: bool
    # The number of answers.
    choices: int
    tools: tuple[str, ...]
    first_index: int
    parallel: bool
    stops: tuple[str, ...]
    # `Relaxed` as JSON text, because the decoded object takes several times the memory.
    relaxed: str | None = None
    # The value of the output `notices`.
    notices: str | None = None

    @property
    def size(self) -> int:
        return len(self.relaxed or "") + len(self.notices or "")

    def encode(self, seal: Seal, now: float) -> str:
        """Encode the context. `now` is the machine's monotonic clock. Raises LimitExceeded, which only large schemas
        cause.
        """
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
        """Decode the context of a first response. Raises InvalidValue if `encode` did not make it, or made it more than
        LIFE_SECONDS ago.
        """
        line = address_of(text)
        tag, _, data = text[len(line) + 1 :].partition(" ")
        if len(data) > CONTEXT_BYTES.value or not seal.holds(tag, "context", line, data):
            raise foreign()
        # The tag proves that `encode` wrote the rest, so it needs no validation.
        head, _, relaxed = data.partition("\n")
        fields = json.loads(head)
        if now >= fields["expires"]:
            raise foreign()
        return cls(
            line.partition(" ")[0],
            fields["stream"],
            fields["choices"],
            tuple(fields["tools"]),
            fields["first_index"],
            fields["parallel"],
            tuple(fields["stops"]),
            relaxed or None,
            fields["notices"],
        )


def address(uid: str, seal: Seal) -> str:
    """The first line of the context for `uid`."""
    return f"{uid} {seal.tag('uid', uid)}"


def addressed(text: str, seal: Seal) -> str:
    """The uid of a context or of its first line. Raises InvalidValue if this server did not make the line."""
    line = address_of(text)
    uid, _, tag = line.partition(" ")
    if not seal.holds(tag, "uid", uid):
        raise foreign()
    return uid


def address_of(text: str) -> str:
    """The first line of a context. Raises InvalidValue if it is longer than MAX_ADDRESS."""
    line = text[: MAX_ADDRESS + 1].partition("\n")[0]
    if len(line) > MAX_ADDRESS:
        raise foreign()
    return line


def foreign() -> InvalidValue:
    return InvalidValue("not made by this server, expired, or already used; call kimi_k2 instead", field=FIELD)
