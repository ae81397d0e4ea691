"""An enforcer without a process: constraints are made here and not compiled, large documents are checked here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.enforcer import Enforcer
from kimi_k2_serving.enforcer.inspection import problems
from kimi_k2_serving.enforcer.worker_client import START_SECONDS, Line
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Bounds, Constraint, constrain

LOOSE = "loose"


def ask(enforcer: Enforcer, conversation: Conversation) -> Future[Constraint]:
    return enforcer.ask_job(enforcer.job(conversation))


def constraint_of(enforcer: Enforcer, conversation: Conversation) -> Constraint:
    return ask(enforcer, conversation).result()


class CheckingWorker:
    """Validates in this process; `asked` counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.started = False
        self.closed = False

    def start(self) -> None:
        self.started = True

    def wait(self) -> None:
        pass

    def ask(
        self, header: dict[str, Any], rest: bytes, *, seconds: float, patience: float = START_SECONDS
    ) -> list[Line]:
        assert header["kind"] == "validate"
        self.asked += 1
        return [(time.monotonic(), {"problems": problems(*json.loads(rest))})]

    def close(self) -> None:
        self.closed = True


def _declared_loose(conversation: Conversation) -> Iterator[str]:
    """What tests of the report take for relaxed: a schema whose comment says so."""
    schemas = {jobs.path(number): tool.parameters for number, tool in enumerate(conversation.tools)}
    schemas[jobs.FORMAT] = conversation.response_format.schema
    for path, schema in schemas.items():
        if isinstance(schema, Mapping) and schema.get("$comment") == LOOSE:
            yield f"{path}: {LOOSE}"


class InlineEnforcer:
    def __init__(self, vocabulary: Vocabulary, bounds: Bounds | None = None) -> None:
        self.worker = CheckingWorker()
        self._vocabulary = vocabulary
        self._bounds = bounds or Bounds.demo()

    def job(self, conversation: Conversation) -> bytes:
        return jobs.encode_job(conversation, self._bounds) if jobs.constrained(conversation) else b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        return self.ask(jobs.decode_job(job)[0] if job else Conversation(()))

    def ask(self, conversation: Conversation) -> Future[Constraint]:
        future: Future[Constraint] = Future()
        try:
            constraint = constrain(conversation, self._vocabulary, bounds=self._bounds)
            future.set_result(replace(constraint, relaxed=(*constraint.relaxed, *_declared_loose(conversation))))
        except ServingError as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        self.worker.close()


def chat_model(vocabulary: Vocabulary, *, names: tuple[str, ...] = ("kimi_k2",), context: int = 4096) -> ChatModel:
    """As the demo is served, without a checkpoint's directory."""
    return ChatModel(names, vocabulary, context, {"temperature": 0.6}, InlineEnforcer(vocabulary))
