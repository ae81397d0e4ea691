"""Training: batches in a fixed order, runs that go on where they stopped, and a loss that falls."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kimi_k2_serving.demo.training.batches import Batch, BatchReader, TrainingText, batches
from kimi_k2_serving.demo.training.inspection import answers, exactness, greedy
from kimi_k2_serving.demo.training.network import Network
from kimi_k2_serving.demo.training.trainer import Schedule, Trainer
from tests.demo.test_network import TINY

STOP = 60


def copying(seed: int) -> Iterator[TrainingText]:
    """Two to six ids, a separator, the same ids again, the stop id."""
    draw = np.random.default_rng(seed)
    while True:
        word = draw.integers(0, 8, int(draw.integers(2, 6)))
        ids = np.concatenate([word, [61], word, [STOP]]).astype(np.uint16)
        yield TrainingText(ids, np.arange(len(ids)) > len(word))


def plan(steps: int) -> Schedule:
    return Schedule(minutes=0, steps=steps, learning_rate=3e-3, report_every=5, save_every_seconds=1e9)


def trainer(directory: Path, steps: int) -> Trainer:
    torch.manual_seed(5)
    return Trainer(Network(TINY), plan(steps), directory, torch.device("cpu"), lambda line: None)


def stream(seed: int = 1) -> Iterator[Batch]:
    return batches(copying(seed), 1_024, 64, random.Random(seed))


def test_a_batch_keeps_to_its_tokens_and_marks_prompt_answer_and_padding() -> None:
    for batch in itertools.islice(stream(), 30):
        assert batch.ids.shape == batch.kind.shape
        assert batch.ids.size <= 1_024
        for ids, kind in zip(batch.ids, batch.kind, strict=True):
            length = int((kind > 0).sum())
            word = (length - 2) // 2
            assert kind[:length].tolist() == [1] * (word + 1) + [2] * (word + 1)
            assert ids[length - 1] == STOP
            assert not kind[length:].any()


def test_conversations_over_the_longest_are_left_out() -> None:
    batch = next(batches(copying(1), 1_024, 6, random.Random(1)))
    assert int((batch.kind > 0).sum(axis=1).max()) <= 6


def test_the_order_of_batches_depends_on_the_seed_alone() -> None:
    def read(seed: int) -> list[bytes]:
        with BatchReader(copying, processes=2, tokens=1_024, longest=64, seed=seed) as reader:
            return [batch.ids.tobytes() for batch in itertools.islice(reader, 8)]

    assert read(1) == read(1)
    assert read(1) != read(2)


def test_a_reader_whose_processes_died_says_so() -> None:
    def broken(seed: int) -> Iterator[TrainingText]:
        yield from itertools.islice(copying(seed), 5)

    with BatchReader(broken, processes=1, tokens=64, longest=64, seed=1) as reader, pytest.raises(EOFError):
        next(iter(reader))


def test_a_run_in_two_parts_equals_a_run_in_one(tmp_path: Path) -> None:
    """The second part gets the batches that the first would have had."""
    whole = trainer(tmp_path / "whole", 20)
    whole.train(itertools.islice(stream(), 20), lambda: False, lambda: None)
    first = trainer(tmp_path / "parts", 20)
    first.train(itertools.islice(stream(), 20), lambda: first.progress.step == 12, lambda: None)
    assert first.progress.step == 12
    second = trainer(tmp_path / "parts", 20)
    assert second.progress.step == 12
    second.train(itertools.islice(stream(), 12, 20), lambda: False, lambda: None)
    assert (second.progress.step, second.progress.starts) == (20, 2)
    ours, theirs = second.network.state_dict(), whole.network.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_it_learns_to_copy_and_exact_answers_are_what_greedy_decoding_gives(tmp_path: Path) -> None:
    one = trainer(tmp_path / "run", 400)
    one.train(stream(), lambda: False, lambda: None)
    held_out = list(itertools.islice(copying(99), 60))
    score = exactness(one.network, [("copy", each) for each in held_out])["copy"]
    decoded = 0
    for each in held_out:
        ((start, end),) = answers(each)
        decoded += greedy(one.network, each.ids[:start].tolist(), STOP, 8) == each.ids[start:end].tolist()
    assert (score.exact, score.answers) == (decoded, 60)
    assert score.share > 0.5
    assert one.progress.curve[-1].answer_loss < one.progress.curve[0].answer_loss / 2


def test_a_run_of_minutes_ends_in_time_and_is_looked_at(tmp_path: Path) -> None:
    torch.manual_seed(5)
    timed = Schedule(minutes=0.05, steps=0, learning_rate=1e-3, report_every=50, save_every_seconds=1e9)
    one = Trainer(Network(TINY), timed, tmp_path / "run", torch.device("cpu"), lambda line: None)
    looks: list[float] = []
    progress = one.train(stream(), lambda: False, lambda: looks.append(one.progress.seconds))
    assert 3 <= progress.seconds < 20
    assert 1 <= len(looks) <= 3
