"""A sample of the demo's world: a conversation as a client sends it, and the answer that the model should give."""

from __future__ import annotations

import enum
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.render import ASSISTANT, END, MIDDLE, Control, Segment, render
from kimi_k2_serving.core.tokens import Vocabulary

# Their texts are the same in every sample: the roles, and the default system prompt.
_SHORT = 64


class Split(enum.Enum):
    """The two halves of the world. Their names, values, tool names and phrasings have nothing in common."""

    TRAIN = "train"
    HELD_OUT = "held out"


@dataclass(frozen=True, slots=True)
class Sample:
    """`conversation`: `messages`, `tools` and `tool_choice` as in a chat request, without the keys that it does not
    have, and `answer`: the assistant message that should follow. `kind`: what the sample exercises.
    """

    conversation: dict[str, Any]
    kind: str

    def request(self) -> dict[str, Json]:
        """The part that a client sends."""
        return {key: value for key, value in self.conversation.items() if key != "answer"}

    def read(self) -> Conversation:
        """The whole conversation, the answer included, as the server reads it. Raises InvalidRequest."""
        given = self.conversation
        return read_conversation(
            messages=[*given["messages"], given["answer"]],
            tools=given.get("tools"),
            tool_choice=given.get("tool_choice"),
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and as many flags: 1 where the assistant writes the token."""

    ids: array[int]
    loss: array[int]


def encode_sample(sample: Sample, vocabulary: Vocabulary) -> Encoded:
    """The sample as the server renders it: what follows the last header is what the model should write."""
    ids, loss = array("H"), array("b")
    for segment, written in marked(sample):
        part = [vocabulary.control(segment.name)] if isinstance(segment, Control) else vocabulary.encode(segment.text)
        ids.extend(part)
        loss.extend((written,) * len(part))
    return Encoded(ids, loss)


def marked(sample: Sample) -> Iterator[tuple[Segment, bool]]:
    """The segments of the prompt and the answer; true for what the assistant writes, `<|im_end|>` included."""
    # The header of an answer that is not there follows the last message.
    segments = render(sample.read()).segments[:-3]
    speaks = writes = False
    for segment in segments:
        yield segment, writes
        if segment == ASSISTANT:
            speaks = True
        elif segment == MIDDLE:
            writes = speaks
        elif segment == END:
            speaks = writes = False
