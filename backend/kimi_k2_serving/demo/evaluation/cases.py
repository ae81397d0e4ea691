"""What is asked, and what a right answer has: conversations of the world's held-out half, or hand-written requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kimi_k2_serving.core.history import call_id
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.demo.evaluation.words import WORDS, Asked
from kimi_k2_serving.demo.world.mix import samples
from kimi_k2_serving.demo.world.sample import Sample, Split

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """`calls`: name and arguments of each expected call. `values`: the words of the last results that a right answer
    repeats. `text`: the expected answer, None if many are right.
    """

    kind: str
    request: Object
    calls: tuple[tuple[str, Json], ...] = ()
    values: tuple[str, ...] = ()
    text: str | None = None

    @property
    def reads_results(self) -> bool:
        return bool(self.values)

    @property
    def is_free(self) -> bool:
        """Whether the model itself decides about a call."""
        return bool(self.request.get("tools")) and self.request.get("tool_choice", "auto") == "auto"


def held_out(count: int, seed: int = 7) -> list[Case]:
    """The first cases of the held-out split."""
    return [case_of(sample) for sample in islice(samples(Split.HELD_OUT, seed), count)]


def in_other_words() -> list[Case]:
    """Requests that a person wrote, who did not look at the world's wordings."""
    return [_worded(asked) for asked in WORDS]


def case_of(sample: Sample) -> Case:
    """The case that a sample of the world is."""
    request: Object = dict(sample.request())
    answer = sample.conversation["answer"]
    functions = [call["function"] for call in answer.get("tool_calls") or ()]
    calls = tuple((each["name"], json.loads(each["arguments"])) for each in functions)
    text = None if calls else str(answer["content"])
    return Case(sample.kind, request, calls, tuple(_repeated(request["messages"], text or "")), text)


def _repeated(messages: list[Object], answer: str) -> Iterator[str]:
    """The words of the answer that come from the results since the assistant's last message and from nothing else."""
    results = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.append(str(message["content"]))
    shown = "\n".join(results)
    if not shown:
        return
    asked = " ".join(str(each["content"]) for each in messages if each["role"] in ("user", "system"))
    for word in answer.split():
        bare = word.strip(".,:;!?\"'()[]")
        if bare and _stands_in(bare, shown) and not _stands_in(bare, asked):
            yield bare


def _stands_in(word: str, text: str) -> bool:
    """Whether the word occurs in the text as a whole, not as a part of another."""
    start = text.find(word)
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(word) :][:1]
        if not before.isalnum() and not after.isalnum():
            return True
        start = text.find(word, start + 1)
    return False


def _worded(asked: Asked) -> Case:
    messages: list[Object] = [{"role": "system", "content": asked.system}] if asked.system else []
    messages.append({"role": "user", "content": asked.said})
    request: Object = {"messages": messages}
    if asked.tools:
        request["tools"] = [*asked.tools]
    calls = asked.calls
    if asked.result:
        written = [
            {
                "id": call_id(name, i),
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(given)},
            }
            for i, (name, given) in enumerate(calls)
        ]
        messages.append({"role": "assistant", "content": "", "tool_calls": written})
        for call, result in zip(written, asked.result, strict=True):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        calls = ()
    return Case(asked.kind, request, calls, asked.values)
