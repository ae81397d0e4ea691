"""The demo's world: what it promises to whoever trains on it or is measured by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.render import Text, render
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.demo.world import Sample, Split, encode, samples
from kimi_k2_serving.demo.world import values as v
from kimi_k2_serving.demo.world.draw import Choices, Draw, is_held_out
from kimi_k2_serving.demo.world.sample import marked
from kimi_k2_serving.json_schema.validate import validate

COUNT = 600
KINDS = {
    "agent call", "agent result", "agent talk", "arithmetic", "call", "copying", "empty result", "error result",
    "follow-up", "itself", "language", "look up", "loop call", "loop result", "missing argument", "no tool fits",
    "no tools", "off topic", "parallel", "result", "small talk", "supplied argument", "system prompt", "thanks",
    "tool_choice named", "tool_choice none", "tool_choice required", "unknown tool",
}  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(demo: Path) -> Vocabulary:
    return Vocabulary.load(demo)


@pytest.fixture(scope="module", params=list(Split))
def drawn(request: pytest.FixtureRequest) -> list[Sample]:
    return list(islice(samples(request.param, 1), COUNT))


def parsed(sample: Sample, vocabulary: Vocabulary) -> list[Event]:
    """The events that the server would send if the model wrote the answer of the sample."""
    encoded = encode(sample, vocabulary)
    prompt = render(_without_answer(sample))
    length = len(vocabulary.encode_prompt(prompt.segments))
    assert list(encoded.ids[:length]) == list(vocabulary.encode_prompt(prompt.segments))
    answer = encoded.ids[length:]
    assert answer[-1] == vocabulary.control("<|im_end|>")
    parser = ToolCallParser(
        vocabulary, tools=[tool.name for tool in sample.read().tools], first_index=prompt.first_call_index
    )
    return [*parser.feed(answer[:-1]), *parser.finish(FinishReason.STOP)]


def _without_answer(sample: Sample):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    whole = sample.read()
    return replace(whole, messages=whole.messages[:-1])


def test_the_same_split_and_seed_give_the_same_samples() -> None:
    first, again = (list(islice(samples(Split.TRAIN, 3), 50)) for _ in range(2))
    assert first == again
    assert first != list(islice(samples(Split.TRAIN, 4), 50))
    assert first != list(islice(samples(Split.HELD_OUT, 3), 50))


def test_every_answer_comes_back_from_the_servers_parser(drawn: list[Sample], vocabulary: Vocabulary) -> None:
    for sample in drawn:
        events = parsed(sample, vocabulary)
        wanted = sample.conversation["answer"]
        assert "".join(each.text for each in events if isinstance(each, TextDelta)) == wanted["content"]
        starts = [(each.id, each.name) for each in events if isinstance(each, ToolCallStart)]
        calls = wanted.get("tool_calls", [])
        assert starts == [(call["id"], call["function"]["name"]) for call in calls]
        assert len([each for each in events if isinstance(each, ToolCallEnd)]) == len(calls)
        written = "".join(each.fragment for each in events if isinstance(each, ArgumentsDelta))
        assert written == "".join(call["function"]["arguments"] for call in calls)
        assert isinstance(events[-1], Finish)


def test_every_call_satisfies_the_schema_of_its_tool(drawn: list[Sample]) -> None:
    for sample in drawn:
        conversation = sample.read()
        tools = {tool.name: tool for tool in conversation.tools}
        for message in conversation.messages:
            for call in message.tool_calls:
                assert validate(call.arguments, tools[call.name]) == []
                assert call.arguments == json.dumps(json.loads(call.arguments), ensure_ascii=False)


def test_the_loss_is_on_what_the_assistant_writes_and_on_nothing_else(drawn: list[Sample]) -> None:
    for sample in drawn:
        given = [*sample.conversation["messages"], sample.conversation["answer"]]
        said = "".join(
            each["content"] + "".join(call["id"] + call["function"]["arguments"] for call in each.get("tool_calls", []))
            for each in given
            if each["role"] == "assistant"
        )
        written = [segment for segment, flag in marked(sample) if flag]
        assert "".join(segment.text for segment in written if isinstance(segment, Text)) == said
        ends = [segment for segment in written if not isinstance(segment, Text) and segment.name == "<|im_end|>"]
        assert len(ends) == len([each for each in given if each["role"] == "assistant"])


def test_samples_are_short(drawn: list[Sample], vocabulary: Vocabulary) -> None:
    lengths = sorted(len(encode(sample, vocabulary).ids) for sample in drawn)
    assert lengths[len(lengths) * 9 // 10] < 700
    assert lengths[-1] < 4_000


def test_every_kind_of_conversation_occurs_in_both_splits() -> None:
    for split in Split:
        assert {sample.kind for sample in islice(samples(split, 2), 4_000)} == KINDS


def test_the_splits_share_no_value_and_no_wording() -> None:
    cities = {split: set(v.CITIES.of(split)) for split in Split}
    assert cities[Split.TRAIN]
    assert cities[Split.HELD_OUT]
    for pool in _pools():
        assert not set(map(str, pool.train)) & set(map(str, pool.held_out)), pool.train
    for split in Split:
        draw = Draw(split, 1)
        assert {is_held_out(draw.word()) for _ in range(200)} == {split is Split.HELD_OUT}


def _pools() -> Iterator[Choices[str]]:
    """All lists of the world's modules, and those in its topics."""
    import importlib
    import pkgutil

    from kimi_k2_serving.demo import world
    from kimi_k2_serving.demo.world.calling import TOPICS

    for module in pkgutil.iter_modules(world.__path__):
        names = vars(importlib.import_module(f"{world.__name__}.{module.name}"))
        yield from (value for value in names.values() if isinstance(value, Choices))
    for topic in TOPICS.values():
        yield from (topic.names, topic.does, topic.asks)
        yield from (field.keys for field in topic.fields.values())
