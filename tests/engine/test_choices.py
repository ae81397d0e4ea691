"""Several answers to one prompt: each ends once, the request ends with the last of them, and errors end them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kimi_k2_serving.core.errors import EngineLost
from kimi_k2_serving.engine.choices import choice_of, generate_choices
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenUsage, merge_choices

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def chunk(*ids: int, end: bool = False, choice: int = 0, others: bool = False) -> Chunk:
    return Chunk(ids, "", TokenUsage(1, len(ids)), End(EndReason.STOP) if end else None, choice=choice, others=others)


class Engine:
    """Choice i waits i turns and then yields the ids that `scripts` has for it; an error is raised."""

    def __init__(self, *scripts: tuple[Any, ...]) -> None:
        self._scripts = scripts
        self.asked: list[Generation] = []
        self.open = 0

    async def generate(self, generation: Generation) -> AsyncIterator[Chunk]:
        number = len(self.asked)
        self.asked.append(generation)
        self.open += 1
        try:
            for step in self._scripts[number]:
                await asyncio.sleep(0.001 * (number + 1))
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.open -= 1


def asked(**sampling: Any) -> Generation:
    return Generation("u", [1], sampling, stream=False)


async def collected(engine: Engine, n: int) -> list[Chunk]:
    return [each async for each in generate_choices(engine, asked(), n)]  # type: ignore[arg-type]


async def test_each_choice_has_its_ids_and_one_end_and_only_the_last_end_is_the_request_s() -> None:
    engine = Engine((chunk(1), chunk(2, end=True)), (chunk(3), chunk(4, end=True)), (chunk(5, end=True),))
    found = await collected(engine, 3)
    assert {i: [token for each in found if each.choice == i for token in each.ids] for i in range(3)} == {
        0: [1, 2],
        1: [3, 4],
        2: [5],
    }
    assert sum(each.end is not None for each in found) == 3
    assert [each.last for each in found] == [*[False] * (len(found) - 1), True]
    assert engine.open == 0


async def test_uids_and_seeds_of_choices_differ() -> None:
    made = [choice_of(asked(sampling_seed=2**63 - 1), number) for number in range(2)]
    assert [each.sampling["sampling_seed"] for each in made] == [2**63 - 1, 0]
    assert len({each.uid for each in made}) == 2
    assert "sampling_seed" not in choice_of(asked(), 1).sampling


@pytest.mark.parametrize("broken", [(chunk(3), EngineLost("died")), (chunk(3),)])
async def test_one_choice_that_fails_or_breaks_off_ends_all(broken: tuple[Any, ...]) -> None:
    engine = Engine((chunk(1), *[chunk(2)] * 100, chunk(2, end=True)), broken)
    with pytest.raises(EngineLost):
        await collected(engine, 2)
    assert engine.open == 0


async def test_closing_the_iterator_ends_every_choice() -> None:
    engine = Engine(*[(chunk(1), *[chunk(2)] * 1000)] * 3)
    chunks = generate_choices(engine, asked(), 3)  # type: ignore[arg-type]
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    assert engine.open == 0


async def test_one_answer_is_the_generation_itself() -> None:
    engine = Engine((chunk(1, end=True),))
    (only,) = await collected(engine, 1)
    assert only.last
    assert engine.asked == [asked()]


def test_chunks_that_wait_are_merged_for_each_choice_and_the_end_stays_last() -> None:
    waiting = [chunk(1), chunk(2, choice=1), chunk(3), chunk(4, choice=1, end=True, others=True), chunk(5, end=True)]
    found = merge_choices(waiting)
    assert [(each.choice, each.ids, each.last) for each in found] == [(1, (2, 4), False), (0, (1, 3, 5), True)]
