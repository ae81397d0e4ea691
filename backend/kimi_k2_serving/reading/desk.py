"""The process that reads large requests, one after the other; `lane` starts it and sends the requests.

Decoding, rendering and encoding a request keep only this process busy. It caches the ids of texts that it saw lately,
so a conversation pays only for what is new in it. Its input is two lengths of four bytes, the name of a reading, and a
request. Its output is a length of four bytes, READ or REFUSED, and data. It ends when its input ends, and at once when
its parent dies.
"""

from __future__ import annotations

import logging
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from kimi_k2_serving import logs
from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.worker_client import Worker
from kimi_k2_serving.engine import linux
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.reading.crossing import READ, REFUSED, encode_error

logger = logging.getLogger(__name__)

CACHE_BYTES = 128 * 2**20
# Takes the name of a reading and a request, returns the data to send back. May raise any exception.
Answer = Callable[[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Served:
    """What another process needs to know of the served model, as JSON values."""

    checkpoint: str
    names: tuple[str, ...]
    context_length: int
    defaults: dict[str, Any]
    bounds: dict[str, Any]
    form: Form
    heeds_seeds: bool

    @classmethod
    def of(cls, model: ChatModel, checkpoint: Path, bounds: Bounds) -> Served:
        return cls(
            checkpoint=str(checkpoint),
            names=model.names,
            context_length=model.context_length,
            defaults=dict(model.defaults),
            bounds=asdict(bounds),
            form=model.form,
            heeds_seeds=model.heeds_seeds,
        )

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Served:
        return msgspec.json.decode(data, type=cls)

    def model(self) -> ChatModel:
        """A model that encodes jobs for the enforcer of another process, and makes no constraints."""
        vocabulary = Vocabulary.load(Path(self.checkpoint), cache_bytes=CACHE_BYTES)
        enforcer = Jobs(Bounds(**self.bounds))
        return ChatModel(
            names=self.names,
            vocabulary=vocabulary,
            context_length=self.context_length,
            defaults=self.defaults,
            enforcer=enforcer,
            form=self.form,
            heeds_seeds=self.heeds_seeds,
        )


class Jobs:
    """Encodes jobs for the enforcer of another process."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    @property
    def worker(self) -> Worker:
        raise Internal("this process validates nothing")

    def job(self, conversation: Conversation) -> bytes:
        return jobs.encode_job(conversation, self._bounds) if jobs.constrained(conversation) else b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        raise Internal("this process makes no constraint")

    def close(self) -> None:
        pass


def answered(answer: Answer, reading: str, request: bytes) -> bytes:
    """The bytes to send back: the answer, or the error. Never raises."""
    try:
        return READ + answer(reading, request)
    except ServingError as error:
        return REFUSED + encode_error(error)
    except Exception as error:
        logger.error("reading a request failed: %s", type(error).__name__)
        return REFUSED + encode_error(Internal("an internal error; see the server's log"))


def serve(answer: Answer, source: BinaryIO, sink: BinaryIO) -> None:
    while len(sizes := source.read(8)) == 8:
        name_bytes, request_bytes = struct.unpack("<II", sizes)
        reading = source.read(name_bytes).decode()
        if len(request := source.read(request_bytes)) < request_bytes:
            return
        answer_bytes = answered(answer, reading, request)
        sink.write(struct.pack("<I", len(answer_bytes)) + answer_bytes)
        sink.flush()


def run(make: Callable[[bytes], Answer], argv: Sequence[str]) -> NoReturn:
    """`argv` is a description, from which `make` makes the Answer, and a niceness."""
    # In the middle of a request it would notice the end of its input only seconds later.
    linux.die_with_parent(signal.SIGKILL)
    # Ctrl-C reaches the whole group; this process ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.keep_private()
    os.nice(int(argv[1]))
    logs.begin("reader")
    serve(make(argv[0].encode()), sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)
