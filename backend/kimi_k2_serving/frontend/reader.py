"""`python -m kimi_k2_serving.frontend.reader DESCRIPTION NICE`: a process that reads large bodies, one at a time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.frontend.anthropic import messages
from kimi_k2_serving.frontend.openai import chat, completions, responses, texts
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reading import Reading, encode_reading, name
from kimi_k2_serving.frontend.service import served
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.reading import desk
from kimi_k2_serving.reading.desk import Served

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
    """The argument of this process: the served model, and the only setting that reading a body needs."""

    served: Served
    anthropic_temperature: float

    @classmethod
    def of(cls, model: ChatModel, checkpoint: Path, bounds: Bounds, policy: Policy) -> Description:
        return cls(Served.of(model, checkpoint, bounds), policy.anthropic_temperature)


@dataclass(slots=True)
class Desk:
    model: ChatModel
    policy: Policy

    @classmethod
    def of(cls, given: Description) -> Desk:
        return cls(given.served.model(), Policy(anthropic_temperature=given.anthropic_temperature))

    def served(self, value: Json) -> str:
        return served(self.model, value)

    def answer(self, reading: str, body: bytes) -> bytes:
        return encode_reading(READINGS[reading](self, strict_json.loads(body, field="body")))


def answer(description: bytes) -> desk.Answer:
    return Desk.of(msgspec.json.decode(description, type=Description)).answer


if __name__ == "__main__":
    desk.run(answer, sys.argv[1:])
