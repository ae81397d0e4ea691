"""The core of an answer, under arbitrary chunking: what streams adds up, and nothing goes on afterwards."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.core.deltas import collect_answer
from kimi_k2_serving.core.errors import EngineLost, Internal
from kimi_k2_serving.core.events import Event, Finish, FinishReason
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenUsage
from kimi_k2_serving.frontend.answer import Question, Step, _together, gather_answer, steps
from kimi_k2_serving.frontend.anthropic.messages import blocks
from kimi_k2_serving.frontend.openai.responses import ItemWriter
from kimi_k2_serving.frontend.port import Health
from tests.support.enforcer import chat_model

MARKERS = (
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|im_end|>",
)
PIECES = ("functions.look:0", '{"city":"x"}', "text STOP more", "漢", "🏃", " ", "{", '"')


class Given:
    """An engine that plays chunks and counts who still listens."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self.in_flight = 0

    async def generate(self, run: Generation) -> AsyncIterator[Chunk]:
        self.in_flight += 1
        try:
            for chunk in self._chunks:
                await asyncio.sleep(0)
                yield chunk
        finally:
            self.in_flight -= 1

    async def health(self) -> Health:
        return Health(True)

    async def close(self) -> None:
        pass


def chat(stops: tuple[str, ...] = ()) -> PreparedPrompt:
    return PreparedPrompt([1, 2], {}, stops, tools=("look",), first_call=0)


def chunks(ids: list[int], cuts: list[int], reason: EndReason = EndReason.STOP) -> list[Chunk]:
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    parts = [tuple(ids[a:b]) for a, b in itertools.pairwise(edges)]
    return [Chunk(part, "", TokenUsage()) for part in parts[:-1]] + [
        Chunk(parts[-1], "", TokenUsage(2, 0, 1), End(reason))
    ]


async def collected(engine: Given, vocabulary: Vocabulary, question: Question) -> list[Step]:
    async with aclosing(steps(chat_model(vocabulary), engine, question, new_uid=lambda: "u")) as source:  # type: ignore[type-var]
        return [step async for step in source]


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.sampled_from((*MARKERS, *PIECES)), max_size=12),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    n=st.integers(1, 3),
    stops=st.sampled_from([(), ("STOP",)]),
)
def test_however_it_is_cut_an_answer_is_the_same_in_every_dialect(
    small_vocabulary: Vocabulary, pieces: list[str], cuts: list[int], n: int, stops: tuple[str, ...]
) -> None:
    ids: list[int] = []
    for piece in pieces:
        ids += [small_vocabulary.control(piece)] if piece in MARKERS else small_vocabulary.encode(piece)
    question = Question((chat(stops),), n=n)

    async def run() -> None:
        once = Given(chunks(ids, []))
        expected = (
            await gather_answer(steps(chat_model(small_vocabulary), once, question, new_uid=lambda: "u"), question)
        ).answers
        engine = Given(chunks(ids, cuts))
        found = await collected(engine, small_vocabulary, question)
        for choice in range(n):
            own = [step for step in found if step.choice == choice]
            assert [step.last for step in own] == [False] * (len(own) - 1) + [True]
            events: list[Event] = [event for step in own for event in step.events]
            answer = collect_answer(events)
            assert answer == expected[0]
            texts = "".join(str(block["text"]) for block in blocks(events) if block["type"] == "text")
            unfinished = "".join(call.arguments for call in answer.tool_calls if not call.complete)
            assert len(texts) == len(answer.content) + len(unfinished)
            writer = ItemWriter("u", {})
            for event in events:
                writer.feed(event)
            kinds = [item["type"] for item in writer.done if isinstance(item, dict)]
            assert kinds.count("function_call") == len(answer.tool_calls)
        assert engine.in_flight == 0

    asyncio.run(run())


async def failing(vocabulary: Vocabulary, given_chunks: list[Chunk], kind: type[Exception]) -> None:
    engine = Given(given_chunks)
    with pytest.raises(kind):
        await collected(engine, vocabulary, Question((chat(),)))
    assert engine.in_flight == 0


def test_an_answer_that_breaks_off_is_an_error_and_never_a_short_answer(small_vocabulary: Vocabulary) -> None:
    asyncio.run(failing(small_vocabulary, [Chunk((65,), "", TokenUsage())], EngineLost))
    asyncio.run(failing(small_vocabulary, [], EngineLost))


def test_an_abort_that_nobody_here_asked_for_is_an_error(small_vocabulary: Vocabulary) -> None:
    asyncio.run(failing(small_vocabulary, chunks([65], [], EndReason.ABORT), EngineLost))


def test_ids_of_another_vocabulary_are_a_defect_and_not_the_clients_fault(small_vocabulary: Vocabulary) -> None:
    asyncio.run(failing(small_vocabulary, chunks([10**6], []), Internal))


def test_an_abort_that_follows_a_stop_string_is_a_stop(small_vocabulary: Vocabulary) -> None:
    ids = small_vocabulary.encode("one STOP")
    engine = Given(chunks(ids, [], EndReason.ABORT))
    (step,) = asyncio.run(collected(engine, small_vocabulary, Question((chat(("STOP",)),))))
    assert step.events[-1] == Finish(FinishReason.STOP, "STOP")
    assert (step.usage.completion, step.usage.cached) == (len(ids), 1)


def test_a_source_that_is_cancelled_from_within_is_an_end_that_the_reader_hears_of() -> None:
    """As a call is whose channel closes; the other choice goes on for ever."""

    async def cancelled() -> AsyncIterator[Step]:
        raise asyncio.CancelledError
        yield

    async def endless() -> AsyncIterator[Step]:
        await asyncio.Event().wait()
        yield

    async def scenario() -> None:
        async with asyncio.timeout(30):
            async for _ in _together([endless(), cancelled()]):
                pass

    with pytest.raises(EngineLost):
        asyncio.run(scenario())
