"""On benign conversations the prompt's ids are those of the published template, rendered and encoded as one string.

`KIMI_K2_CONVERSATIONS` sets how many are generated (12,000 unless it is set).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
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
NAMES_GIVEN = ("", "Ann", "漢 b", None)
# What clients send along and the prompt has no place for.
EXTRAS: tuple[tuple[str, Any], ...] = (
    ("refusal", None),
    ("reasoning_content", "Hmm."),
    ("annotations", []),
    ("function_call", None),
    ("cache_control", {"type": "ephemeral"}),
    ("tool_calls", []),
)
# Under these ids a result finds its call wherever it stands.
UNIQUE_IDS = ("call", "ours", "rewritten")
KINDS = (*UNIQUE_IDS, "none", "null", "absent", "same turn by turn")


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result as a client sends it, and as the template has to be given it."""

    sent: dict[str, Any]
    shown: dict[str, Any]


class Generator:
    """Benign conversations: each as the request a client sends, and as what the template has to be given."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sent: list[dict[str, Any]] = []
        self.shown: list[dict[str, Any]] = []
        self.late: list[Result] = []
        self.count = 0

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

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
                return self.random.choice(
                    (0, -7, 2**53, 2**64 - 1, 1.5, 1e-7, -0.0, 1e22, 1.7976931348623157e308, 5e-324)
                )
            case 2 | 3 | 4:
                return self.text(4)
            case 5:
                return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
            case _:
                return {self.text(3): self.value(depth - 1) for _ in range(self.random.randrange(4))}

    def schema(self, depth: int = 3) -> Any:
        """A schema as tools declare them, nested; keywords in any order."""
        if depth == 0 or self.chance(0.3):
            kind = self.random.choice(("string", "integer", "number", "boolean", ["string", "null"]))
            parts = [("type", kind), ("description", self.text(4)), ("enum", [self.text(2), None, 1])]
        elif self.chance(0.3):
            parts = [(self.random.choice(("anyOf", "oneOf", "allOf")), [self.schema(depth - 1), {"$ref": "#/$defs/é"}])]
        elif self.chance(0.3):
            parts = [("type", "array"), ("items", self.schema(depth - 1)), ("minItems", 1), ("default", self.value())]
        else:
            keys = [self.text(3) or "x" for _ in range(3)]
            parts = [
                ("type", "object"),
                ("properties", {key: self.schema(depth - 1) for key in keys}),
                ("required", keys[:1]),
                ("additionalProperties", self.random.choice((False, True, {"type": "string"}))),
                ("$defs", {"é": {"const": self.value()}}),
            ]
        self.random.shuffle(parts)
        return dict(parts[: self.random.randrange(1, len(parts) + 1)])

    def tools(self) -> list[dict[str, Any]] | None:
        if self.chance(0.4):
            return self.random.choice((None, []))
        tools = [self.tool(name) for name in self.random.sample(FUNCTIONS, self.random.randrange(1, 4))]
        if self.chance(0.1):
            tools.append({"type": "builtin_function", "function": {"name": "$web_search"}})
        return tools

    def tool(self, name: str) -> dict[str, Any]:
        parameters = self.random.choice((self.schema(), {"z": self.value(), "a": self.value()}, None, True, {}))
        parts = [("description", self.text()), ("name", name), ("parameters", parameters), ("strict", self.chance(0.5))]
        self.random.shuffle(parts)
        function = dict(part for part in parts if part[0] == "name" or self.chance(0.9))
        outer: list[tuple[str, Any]] = [("type", "function"), ("function", function)]
        if self.chance(0.3):
            outer.append(("extra", self.value()))
        self.random.shuffle(outer)
        return dict(outer)

    def content(self) -> Any:
        draw = self.random.random()
        if draw < 0.1:
            return None
        if draw < 0.2:
            return [{"type": "text", "text": self.text(4)} for _ in range(self.random.randrange(4))]
        return self.text()

    def named(self, message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "name": self.random.choice(NAMES_GIVEN)} if self.chance(0.15) else message

    def add(self, sent: dict[str, Any], shown: dict[str, Any]) -> None:
        extra = dict(self.random.sample(EXTRAS, self.random.randrange(3))) if self.chance(0.2) else {}
        self.sent.append({**extra, **sent})
        self.shown.append(shown)

    def messages(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        self.sent, self.shown, self.late, self.count = [], [], [], 0
        for position in range(self.random.randrange(1, 7)):
            roles = ["user", "assistant", "calls", "system"]
            role = self.random.choice(["system", "user", *roles] if position == 0 else roles)
            if role == "calls":
                self.calls()
                continue
            message = self.named({"role": role, "content": self.content()})
            if role == "assistant" and message["content"] is None and self.chance(0.5):
                del message["content"]
            self.add({**message, "role": "developer"} if role == "system" and self.chance(0.3) else message, message)
            if self.late and self.chance(0.5):
                result = self.late.pop(self.random.randrange(len(self.late)))
                self.add(result.sent, result.shown)
        return self.sent, self.shown

    def calls(self) -> None:
        """An assistant message with calls and their results: in any order, late or never, under ids of any kind."""
        kind = self.random.choice(KINDS)
        names = [self.random.choice(FUNCTIONS) for _ in range(self.random.randrange(1, 4))]
        sent, shown, results = [], [], []
        for i, name in enumerate(names):
            ours = f"functions.{name}:{self.count + i}"
            call, arguments = self.call(name, self.client_id(kind, ours, i))
            sent.append(call)
            shown.append({"id": ours, "function": {"arguments": arguments}})
            results.append(self.result(call, ours, name, by_name=len(set(names)) == len(names) and kind == "absent"))
        self.count += len(names)
        message = self.named({"role": "assistant", "content": self.content()})
        self.add({**message, "tool_calls": sent}, {**message, "tool_calls": shown})
        if kind in (*UNIQUE_IDS, "same turn by turn") or "name" in results[0].sent:
            self.random.shuffle(results)
        for result in results[: self.random.randrange(len(results) + 1)] if self.chance(0.2) else results:
            if kind in UNIQUE_IDS and self.chance(0.15):
                self.late.append(result)
            else:
                self.add(result.sent, result.shown)

    def client_id(self, kind: str, ours: str, place: int) -> dict[str, Any]:
        match kind:
            case "call":
                return {"id": f"call_{self.random.getrandbits(60):x}"}
            case "ours":
                return {"id": ours}
            case "rewritten":
                return {"id": ours.replace(".", "_").replace(":", "_")}
            case "none":
                return {"id": ""}
            case "null":
                return {"id": None}
            case "absent":
                return {}
            case _:
                return {"id": str(place)}

    def call(self, name: str, identity: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """A call as sent, and its arguments for the template, which knows no absent ones."""
        value = {self.text(3): self.value() for _ in range(self.random.randrange(3))}
        text = json.dumps(value, indent=self.random.choice((None, 1)), ensure_ascii=self.chance(0.5))
        arguments = self.random.choice((value, text, text, text[:-1], ""))
        function = {"name": name, "arguments": arguments}
        if not value and self.chance(0.5):
            function, arguments = self.random.choice(({"name": name}, {"name": name, "arguments": None})), {}
        kind = self.random.choice(({"type": "function"}, {}, {"type": None}, {"type": "function", "index": 0}))
        return {**identity, **kind, "function": function}, arguments

    def result(self, call: dict[str, Any], ours: str, name: str, *, by_name: bool) -> Result:
        message = {"role": "tool", "content": self.content()}
        if by_name:
            message["name"] = name
        elif call.get("id"):
            message = self.named(message)
        identity = {"tool_call_id": call["id"]} if "id" in call else {}
        return Result({**message, **identity}, {**message, "tool_call_id": ours})


@pytest.mark.slow
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
        assert vocabulary.encode_prompt(prompt.segments).tolist() == oracle.encode(text)
        compared += 1


def forges(segments: Iterable[Segment]) -> bool:
    """Whether a text happens to hold a control token's name: there, and only there, the two have to differ."""
    texts = [segment.text for segment in segments if isinstance(segment, Text)]
    return any(name in text for text in texts for name in NAMES.values())
