"""What is left of a request once its body is read: small, whatever was sent, so that it can cross processes.

A reading is a function from a body's JSON to a `Read`. It asks for no constraint and no answer, and names no process:
`readers` has it run in a process of its own where the body is large, `service` in a thread where it is small.
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
    prompts: tuple[PreparedPrompt, ...] = ()
    job: bytes = b""
    echo: Mapping[str, bytes | memoryview] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)

    def request(self, kind: type[T]) -> T:
        """`asked`, which is `kind` here and a mapping if it came from another process."""
        return msgspec.convert(self.asked, kind)

    def said(self, name: str) -> Any:
        """One of `echo` as a part of a document."""
        return sse.written(self.echo[name])


Reading = Callable[[Reader, Json], Read]
_WRITTEN = tuple[Any, list[Any], bytes, dict[str, memoryview], list[Any]]


def name(reading: Reading) -> str:
    """By which another process finds it."""
    return f"{reading.__module__}.{reading.__qualname__}"


def encode_reading(read: Read) -> bytes:
    prompts = list(map(prompt_fields, read.prompts))
    return dump([read.asked, prompts, read.job, read.echo, read.origin.written()])


def decode_reading(data: memoryview) -> Read:
    """What it repeats stays where it is in `data`: it may be megabytes."""
    asked, prompts, job, echo, origin = msgspec.msgpack.decode(data, type=_WRITTEN)
    return Read(asked, tuple(map(prompt_of, prompts)), job, echo, Origin.of(origin))
