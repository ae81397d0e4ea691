"""The requests of a load: conversations, the same ones for every server, and the ids of their prompts.

Engines without a chat get the ids that this project's own core makes of the conversation; SGLang's servers make the
same ones with a template. Every conversation is new, except for what a workload shares on purpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.render import render
from kimi_k2_serving.core.tokens import Vocabulary

TEMPERATURE = 0.6
# Conversations of one process have different numbers; those of another one start elsewhere.
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Workload:
    """`prompt` and `answer` in tokens. `shared`: the length of a system message that all conversations begin with.

    `turns`: how many questions and answers come before the last question. They count towards `prompt`.
    """

    name: str
    prompt: int
    answer: int
    shared: int = 0
    tools: int = 0
    turns: int = 0


SHORT = Workload("short", 64, 64)
SHORT_TOOLS = Workload("short_tools", 64, 64, tools=4)
LONG = Workload("long", 4096, 64, shared=4000)
LONG_TOOLS = Workload("long_tools", 4096, 64, shared=4000, tools=4)
ALL = (SHORT, SHORT_TOOLS, LONG, LONG_TOOLS)


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation. `ids` is its prompt."""

    messages: list[dict[str, str]]
    tools: list[dict[str, Any]]
    ids: list[int]
    answer: int


class Chats:
    """Makes conversations of about the workload's size; `prompt` does not count the tools."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._word = len(vocabulary.encode(" count on" * 200)) / 200

    def chats(self, workload: Workload, number: int) -> list[Chat]:
        return [self._chat(workload, next(_numbers)) for _ in range(number)]

    def _chat(self, workload: Workload, number: int) -> Chat:
        messages = []
        if workload.shared:
            messages.append({"role": "system", "content": "Be brief." + self._words(workload.shared)})
        for turn in range(workload.turns):
            messages.append({"role": "user", "content": f"Question {turn}: what comes after it?"})
            messages.append({"role": "assistant", "content": f"After {turn} comes {turn + 1}."})
        messages.append({"role": "user", "content": f"{number:06d}"})
        left = workload.prompt - len(self._ids(messages, []))
        messages[-1]["content"] += self._words(max(left, 0))
        tools = [tool(index) for index in range(workload.tools)]
        return Chat(messages, tools, self._ids(messages, tools), workload.answer)

    def _words(self, tokens: int) -> str:
        return " count on" * round(tokens / self._word)

    def _ids(self, messages: list[dict[str, str]], tools: list[dict[str, Any]]) -> list[int]:
        rendered = render(read_conversation(messages=cast(Json, messages), tools=cast(Json, tools or None)))
        return list(self._vocabulary.encode_prompt(rendered.segments))


def tool(index: int) -> dict[str, Any]:
    properties = {
        "path": {"type": "string", "description": "The file to work on."},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        "mode": {"type": "string", "enum": ["read", "write", "append"]},
    }
    return {
        "type": "function",
        "function": {
            "name": f"edit_file_{index}",
            "description": "Reads or changes a part of a file.",
            "parameters": {"type": "object", "properties": properties, "required": ["path", "mode"]},
        },
    }


def openai(chat: Chat) -> dict[str, Any]:
    return {
        "model": "kimi_k2",
        "messages": chat.messages,
        "max_tokens": chat.answer,
        "ignore_eos": True,
        "temperature": TEMPERATURE,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"tools": chat.tools} if chat.tools else {}),
    }


def ensemble(chat: Chat) -> dict[str, Any]:
    return {
        "messages": json.dumps(chat.messages),
        "max_tokens": chat.answer,
        "ignore_eos": True,
        "temperature": TEMPERATURE,
        "stream": True,
        **({"tools": json.dumps(chat.tools)} if chat.tools else {}),
    }


def engine_model(chat: Chat) -> dict[str, Any]:
    return {
        "input_ids": chat.ids,
        "max_tokens": chat.answer,
        "ignore_eos": True,
        "temperature": TEMPERATURE,
        "stream": True,
    }


def bare(chat: Chat) -> dict[str, Any]:
    sampling = {"max_new_tokens": chat.answer, "ignore_eos": True, "temperature": TEMPERATURE}
    return {"input_ids": chat.ids, "sampling_params": sampling}
