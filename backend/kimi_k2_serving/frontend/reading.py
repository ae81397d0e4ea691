"""The result of reading a request's body, in a compact form that can cross processes.

A reading is a function from a body's JSON to a `Read`. It starts no constraint and no generation, and does not know
where it runs: `readers` runs it in another process for a large body, `service` in a thread for a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.frontend import sse
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.reading.crossing import dump, prompt_fields, prompt_of

T = TypeVar("T")


class Reader(Protocol):
    """What a reading needs. Implementations: `service.Service`, and `reader.Desk` in a process that only reads."""

    model: ChatModel
    policy: Policy

    def served(self, value: Json) -> str: ...


@dataclass(frozen=True, slots=True)
class Read:
    """`asked`: the request's options, a small dataclass. `job`: the input for the constraint of its one prompt, b"" for
    none. `echo`: values that the answer repeats, already JSON. `origin`: for later errors, reports and notices.
    """

    asked: object = None
    prompts: tuple[PreparedPrompt, ...] = ()
    job: bytes = b""
    echo: Mapping[str, bytes | memoryview] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def request(self, kind: type[T]) -> T:
        """`asked` as an instance of `kind`. If it comes from another process, `asked` is a mapping and is converted."""
        return msgspec.convert(self.asked, kind)

    def said(self, name: str) -> Any:
        """A value of `echo`, for use in a document."""
        return sse.written(self.echo[name])


Reading = Callable[[Reader, Json], Read]
_WRITTEN = tuple[Any, list[Any], bytes, dict[str, memoryview], list[Any]]


def name(reading: Reading) -> str:
    """The name by which another process finds `reading`."""
    return f"{reading.__module__}.{reading.__qualname__}"


def encode_reading(read: Read) -> bytes:
    prompts = list(map(prompt_fields, read.prompts))
    return dump([read.asked, prompts, read.job, read.echo, read.origin.written()])


def decode_reading(data: memoryview) -> Read:
    """Decode an encoded Read. `echo` refers to `data` instead of copying it, because it may have megabytes."""
    asked, prompts, job, echo, origin = msgspec.msgpack.decode(data, type=_WRITTEN)
    return Read(asked, tuple(map(prompt_of, prompts)), job, echo, Origin.of(origin))
