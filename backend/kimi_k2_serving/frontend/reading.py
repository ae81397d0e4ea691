"""What is left of a request once its body is read: small, whatever was sent, so that it can cross processes.

A reading is a function from a body's JSON to a `Read`. It asks for no constraint and no answer, and names no process:
`readers` runs it in a process of its own where the body is large, `service` in a thread where it is small.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.prompt import Prompt
from kimi_k2_serving.core import errors as core_errors
from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.frontend import errors, sse
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.policy import Policy

T = TypeVar("T")
# Every leaf by its class: the frontend's own share codes with core's.
_KINDS = {
    kind.__name__: kind
    for kind in (*core_errors.KINDS.values(), *vars(errors).values())
    if isinstance(kind, type) and issubclass(kind, ServingError)
}


class Reader(Protocol):
    """What a reading needs: `service.Service`, and `reader.Desk` in a process that does nothing else."""

    model: ChatModel
    policy: Policy

    def served(self, value: Json) -> str: ...


@dataclass(frozen=True, slots=True)
class Read:
    """`asked`: the request's own switches, a small dataclass. `job`: what determines the constraint of its one prompt,
    b"" for none. `echo`: what the answer repeats, each written as JSON already. `origin`: for what may
    still be said of it.
    """

    asked: object = None
    prompts: tuple[Prompt, ...] = ()
    job: bytes = b""
    echo: Mapping[str, bytes] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def request(self, kind: type[T]) -> T:
        """`asked`, which is `kind` here and a mapping if it came from another process."""
        return msgspec.convert(self.asked, kind)

    def said(self, name: str) -> Any:
        """One of `echo` as a part of a document."""
        return sse.written(self.echo[name])


Reading = Callable[[Reader, Json], Read]


def name(reading: Reading) -> str:
    """By which another process finds it."""
    return f"{reading.__module__}.{reading.__qualname__}"


def encode(read: Read) -> bytes:
    prompts = [
        [array("i", each.ids).tobytes(), each.sampling, each.stops, each.tools, each.first_call, each.parallel]
        for each in read.prompts
    ]
    return msgspec.msgpack.encode([read.asked, prompts, read.job, read.echo, read.origin.written()])


def decode(data: bytes) -> Read:
    asked, prompts, job, echo, origin = msgspec.msgpack.decode(data)
    return Read(asked, tuple(map(_prompt, prompts)), job, echo, Origin.of(origin))


def _prompt(fields: list[Any]) -> Prompt:
    data, sampling, stops, tools, first_call, parallel = fields
    ids = array("i")
    ids.frombytes(data)
    return Prompt(ids, sampling, tuple(stops), tuple(tools), first_call, parallel)


def encode_error(error: ServingError) -> bytes:
    return msgspec.msgpack.encode([type(error).__name__, error.detail, error.field])


def decode_error(data: bytes) -> ServingError:
    kind, detail, path = msgspec.msgpack.decode(data)
    return _KINDS.get(kind, Internal)(detail, field=path)
