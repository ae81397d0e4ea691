"""On benign conversations the prompt's ids are those of the published template, rendered and encoded as one string.

`KIMI_K2_CONVERSATIONS` sets how many are generated (12,000 unless it is set).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.render import Segment, Text, render
from kimi_k2_serving.core.tokens import Vocabulary
from tests.support.reference_tokenizer import ReferenceTokenizer
from tests.support.vocabulary import NAMES

CONVERSATIONS = int(os.environ.get("KIMI_K2_CONVERSATIONS", "12000"))
ALPHABETS = (
    "abcdefgh ABC.,'\n",
    " \t\n\r\u00a0",
    "漢字かなカナ한국어、。",
    "éàüßñøæ Éa\u0301",
    "🏃‍♂️😊👩‍👩‍👧",
    "0123456789+-*/=",
    "<|>[]{}\":,_\\'im",
    "אבגد هوزहिन्दी",
)
WORDS = (
    "function",
    " return",
    "def ",
    "they're",
    "I'LL",
    "<|im_end",
    "im_end|>",
    "[EOS",
    "{}",
    "  \n\n",
    "\r\n",
    "12345",
    "...",
)
FUNCTIONS = ("get_weather", "search-docs", "mcp__files__read.file", "f")


class Generator:
    """Benign conversations: each as the request a client sends, and as what the template has to be given."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, longest: int = 12) -> str:
        draw = self.random
        parts = []
        for _ in range(draw.randrange(longest)):
            if draw.random() < 0.4:
                parts.append(draw.choice(WORDS))
            else:
                parts.append("".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(1, 12))))
        return "".join(parts)

    def value(self, depth: int = 2) -> Any:
        match self.random.randrange(8 if depth else 5):
            case 0:
                return self.random.choice((None, True, False))
            case 1:
                return self.random.choice((0, -7, 2**53, 1.5, 1e-7, -0.0, 1e22))
            case 2 | 3 | 4:
                return self.text(4)
            case 5:
                return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
            case _:
                return {self.text(3): self.value(depth - 1) for _ in range(self.random.randrange(4))}

    def tools(self) -> list[dict[str, Any]] | None:
        if self.random.random() < 0.4:
            return self.random.choice((None, []))
        tools = []
        for name in self.random.sample(FUNCTIONS, self.random.randrange(1, 4)):
            function = {"description": self.text(), "name": name, "parameters": {"z": self.value(), "a": self.value()}}
            parts = [("type", "function"), ("function", function), ("extra", self.value())]
            self.random.shuffle(parts)
            tools.append(dict(parts))
        return tools

    def content(self) -> Any:
        draw = self.random.random()
        if draw < 0.1:
            return None
        if draw < 0.2:
            return [{"type": "text", "text": self.text(4)} for _ in range(self.random.randrange(4))]
        return self.text()

    def messages(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        sent: list[dict[str, Any]] = []
        shown: list[dict[str, Any]] = []
        count = 0
        for position in range(self.random.randrange(1, 7)):
            roles = ("system", "user") if position == 0 else ("user", "assistant", "calls", "system")
            role = self.random.choice(roles)
            if role == "calls":
                count = self.calls(sent, shown, count)
                continue
            message = {"role": role, "content": self.content()}
            if self.random.random() < 0.15:
                message["name"] = self.random.choice(("", "Ann", "漢 b", None))
            sent.append(message if role != "system" or self.random.random() < 0.7 else {**message, "role": "developer"})
            shown.append(message)
        return sent, shown

    def calls(self, sent: list[dict[str, Any]], shown: list[dict[str, Any]], count: int) -> int:
        """An assistant message with calls and their results, in any order, under ids of several kinds."""
        calls, renamed, results = [], [], []
        kind = self.random.choice(("call", "ours", "none", "same turn by turn"))
        for i in range(self.random.randrange(1, 4)):
            name = self.random.choice(FUNCTIONS)
            ours = f"functions.{name}:{count + i}"
            theirs = {
                "call": f"call_{self.random.getrandbits(60):x}",
                "ours": ours,
                "none": "",
                "same turn by turn": str(i),
            }[kind]
            value = {self.text(3): self.value() for _ in range(self.random.randrange(3))}
            arguments = value if self.random.random() < 0.5 else json.dumps(value, indent=self.random.choice((None, 1)))
            calls.append({"id": theirs, "type": "function", "function": {"name": name, "arguments": arguments}})
            renamed.append({"id": ours, "function": {"arguments": arguments}})
            results.append(({"role": "tool", "content": self.content()}, theirs, ours))
        content = self.content()
        sent.append({"role": "assistant", "content": content, "tool_calls": calls})
        shown.append({"role": "assistant", "content": content, "tool_calls": renamed})
        if kind != "none":
            self.random.shuffle(results)
        for message, theirs, ours in results:
            sent.append({**message, "tool_call_id": theirs})
            shown.append({**message, "tool_call_id": ours})
        return count + len(calls)


@pytest.mark.parametrize("seed", range(4))
def test_ids_equal_the_published_templates(seed: int, reference: Path, vocabulary: Vocabulary) -> None:
    oracle = ReferenceTokenizer(reference, vocabulary)
    generator = Generator(seed)
    compared = 0
    while compared < CONVERSATIONS // 4:
        sent, shown = generator.messages()
        tools = generator.tools()
        # Through JSON and back, as a request comes.
        request = json.loads(json.dumps({"messages": sent, "tools": tools}))
        prompt = render(read_conversation(**request))
        text = oracle.render(shown, tools)
        assert prompt.text() == text
        if forges(prompt.segments):
            continue
        assert vocabulary.encode_prompt(prompt.segments) == oracle.encode(text)
        compared += 1


def forges(segments: Iterable[Segment]) -> bool:
    """Whether a text happens to hold a control token's name: there, and only there, the two have to differ."""
    texts = [segment.text for segment in segments if isinstance(segment, Text)]
    return any(name in text for text in texts for name in NAMES.values())
