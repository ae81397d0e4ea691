"""A conversation while it is being written: messages, tools, and the numbers of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kimi_k2_serving.core.history import call_id
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.declared import Declared
from kimi_k2_serving.demo.world.draw import Draw, pool
from kimi_k2_serving.demo.world.sample import Sample
from kimi_k2_serving.demo.world.topic import Values

_PLAIN = pool(
    "You are a helpful assistant.|You are a helpful assistant. Use the tools when they help.|Answer briefly.|"
    "You are an assistant with tools.|Be brief.|You are a friendly assistant. Answer in one sentence.|"
    "Use the tools to answer.|You answer questions.|You are a demo.|Help the user. Keep answers short.|"
    "You are a careful assistant. If a tool fits, call it.|Answer the user's questions as well as you can.|"
    "You are an agent. Use your tools.|Be polite and short.|You help people with their work.|"
    "Never make things up. Use tools.|Assist the user.|You are a test assistant.|"
    "Answer with few words.|Do what the user asks."
)
_FACTS = pool(
    "Today is {date}.|The user is {person}.|The user lives in {city}.|Current directory: {folder}|Session: {code}|"
    "Platform: linux|Project: {word}|The date is {date}.|Your team is {word}.|Language: English"
)


class Talk:
    """`tools`: what the request declares. The last message written is the answer of the sample."""

    def __init__(self, draw: Draw, tools: Sequence[Declared] = (), *, system: str | None = None) -> None:
        self.draw = draw
        self.tools = list(tools)
        self.messages: list[dict[str, Any]] = []
        self.choice: Any = None
        self._calls = 0
        prompt = system if system is not None else self._system()
        if prompt:
            self.messages.append({"role": "system", "content": prompt})

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def say(self, text: str) -> None:
        """The assistant answers."""
        self.messages.append({"role": "assistant", "content": text})

    def call(self, *calls: tuple[Declared, Values]) -> list[str]:
        """The assistant calls tools; returns the ids."""
        written = []
        for tool, values in calls:
            function = {"name": tool.name, "arguments": tool.arguments(values)}
            written.append({"id": call_id(tool.name, self._calls), "type": "function", "function": function})
            self._calls += 1
        self.messages.append({"role": "assistant", "content": "", "tool_calls": written})
        return [str(each["id"]) for each in written]

    def result(self, id_: str, text: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": id_, "content": text})

    def sample(self, kind: str) -> Sample:
        *messages, answer = self.messages
        conversation: dict[str, Any] = {"messages": messages}
        if self.tools:
            conversation["tools"] = [each.declaration for each in self.tools]
        if self.choice is not None:
            conversation["tool_choice"] = self.choice
        return Sample({**conversation, "answer": answer}, kind)

    def _system(self) -> str:
        draw = self.draw
        if draw.flip(0.45):
            return ""
        lines = [draw.pick(_PLAIN)]
        if draw.flip(0.25):
            lines += [fact(draw) for _ in range(draw.integer(1, 3))]
        return draw.pick((" ", "\n", "\n\n")).join(lines)


def fact(draw: Draw) -> str:
    """A line about the surroundings that the answer does not need."""

    return draw.pick(_FACTS).format(
        date=v.date(draw),
        person=v.person(draw),
        city=v.city(draw),
        folder=v.directory(draw),
        code=draw.code(),
        word=draw.word(),
    )
