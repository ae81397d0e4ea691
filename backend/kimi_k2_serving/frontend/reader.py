"""`python -m kimi_k2_serving.frontend.reader DESCRIPTION NICE`: reads large bodies, one after the other.

Whatever a body costs to decode, render and encode, it costs this process. It keeps ids of texts seen lately, so a
conversation pays for what is new in it. Its input is a reading's name and a body, behind their lengths in four bytes
each; its output is `[ok, data]` behind its length. It ends with its input.
"""

from __future__ import annotations

import logging
import os
import signal
import struct
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import Internal, ServingError
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.anthropic import messages
from kimi_k2_serving.frontend.openai import chat, completions, responses, texts
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reading import Read, Reading, encode, encode_error, name
from kimi_k2_serving.frontend.service import served
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.bounds import Bounds
from kimi_k2_serving.grammar.constraint import Constraint
from kimi_k2_serving.grammar.worker_process import Worker

logger = logging.getLogger(__name__)

CACHE_BYTES = 128 * 2**20
READINGS: dict[str, Reading] = {
    name(each): each
    for each in (
        chat.reading,
        chat.rendering,
        completions.reading,
        responses.reading,
        messages.reading,
        messages.counting,
        texts.tokenizing,
        texts.detokenizing,
    )
}


@dataclass(frozen=True, slots=True)
class Description:
    """The served model as this process needs it."""

    checkpoint: str
    names: tuple[str, ...]
    context_length: int
    defaults: dict[str, Any]
    bounds: dict[str, Any]
    form: Form
    anthropic_temperature: float

    @classmethod
    def of(cls, model: ChatModel, checkpoint: Path, bounds: Bounds, policy: Policy) -> Description:
        return cls(
            checkpoint=str(checkpoint),
            names=model.names,
            context_length=model.context_length,
            defaults=dict(model.defaults),
            bounds=asdict(bounds),
            form=model.form,
            anthropic_temperature=policy.anthropic_temperature,
        )


class Jobs:
    """Makes jobs for the enforcer of another process."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    @property
    def worker(self) -> Worker:
        raise Internal("this process validates nothing")

    def job(self, conversation: Conversation) -> bytes:
        return jobs.encode(conversation, self._bounds) if jobs.constrained(conversation) else b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        raise Internal("this process makes no constraint")

    def ask(self, conversation: Conversation) -> Future[Constraint]:
        raise Internal("this process makes no constraint")

    def close(self) -> None:
        pass


@dataclass(slots=True)
class Desk:
    model: ChatModel
    policy: Policy

    @classmethod
    def of(cls, given: Description) -> Desk:
        vocabulary = Vocabulary.load(Path(given.checkpoint), cache_bytes=CACHE_BYTES)
        jobs_alone = Jobs(Bounds(**given.bounds))
        model = ChatModel(given.names, vocabulary, given.context_length, given.defaults, jobs_alone, given.form)
        return cls(model, Policy(anthropic_temperature=given.anthropic_temperature))

    def served(self, value: Json) -> str:
        return served(self.model, value)

    def answer(self, reading: str, body: bytes) -> bytes:
        """Never raises."""
        try:
            found: Read = READINGS[reading](self, strict_json.loads(body, field="body"))
            return msgspec.msgpack.encode([True, encode(found)])
        except ServingError as error:
            return msgspec.msgpack.encode([False, encode_error(error)])
        except Exception as error:
            logger.error("reading a body failed: %s", type(error).__name__)
            return msgspec.msgpack.encode([False, encode_error(Internal("an internal error"))])


def serve(desk: Desk, source: BinaryIO, sink: BinaryIO) -> None:
    while len(sizes := source.read(8)) == 8:
        name_bytes, body_bytes = struct.unpack("<II", sizes)
        reading = source.read(name_bytes).decode()
        if len(body := source.read(body_bytes)) < body_bytes:
            return
        answer = desk.answer(reading, body)
        sink.write(struct.pack("<I", len(answer)) + answer)
        sink.flush()


def main(argv: Sequence[str]) -> NoReturn:
    # Ctrl-C reaches the whole group; this process ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(int(argv[1]))
    desk = Desk.of(msgspec.json.decode(argv[0], type=Description))
    serve(desk, sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
