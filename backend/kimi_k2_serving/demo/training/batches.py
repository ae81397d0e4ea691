"""Batches of encoded conversations, made by separate processes and read in a fixed order.

A batch holds conversations of similar length, padded at the end to one length; a token never attends to another
conversation. Each process has a seed of its own and the reader takes from them in turn, so that the sequence of batches
depends on the seed and the number of processes, never on timing.
"""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

# Conversations that are sorted by length together: enough that rows of one batch differ by few tokens.
POOL = 1_024
# A row's length is a multiple of this, so that few shapes occur.
ROUND = 64


@dataclass(frozen=True, slots=True)
class TrainingText:
    """One conversation: `ids` (uint16) and, for each, whether the assistant writes it (bool)."""

    ids: NDArray[np.uint16]
    answer: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` (rows, length), uint16; `kind` (rows, length), uint8: 0 padding, 1 prompt, 2 answer."""

    ids: NDArray[np.uint16]
    kind: NDArray[np.uint8]


Source = Callable[[int], Iterator[TrainingText]]


def batches(encoded: Iterator[TrainingText], tokens: int, longest: int, chooser: random.Random) -> Iterator[Batch]:
    """Endless batches of at most `tokens` ids each; conversations over `longest` are left out."""
    while True:
        pool: list[TrainingText] = []
        while len(pool) < POOL:
            one = next(encoded)
            if len(one.ids) <= longest:
                pool.append(one)
        pool.sort(key=lambda one: len(one.ids))
        groups = list(_groups(pool, tokens))
        chooser.shuffle(groups)
        yield from map(_padded, groups)


def _groups(ordered: list[TrainingText], tokens: int) -> Iterator[list[TrainingText]]:
    group: list[TrainingText] = []
    for one in ordered:
        if group and (len(group) + 1) * _length(one) > tokens:
            yield group
            group = []
        group.append(one)
    yield group


def _length(one: TrainingText) -> int:
    return -(-len(one.ids) // ROUND) * ROUND


def _padded(group: list[TrainingText]) -> Batch:
    shape = (len(group), _length(group[-1]))
    ids, kind = np.zeros(shape, np.uint16), np.zeros(shape, np.uint8)
    for row, one in enumerate(group):
        ids[row, : len(one.ids)] = one.ids
        kind[row, : len(one.ids)] = 1 + one.answer
    return Batch(ids, kind)


class BatchReader:
    """Processes that make batches; iterate to read them. Leave the `with` block to end the processes."""

    def __init__(self, source: Source, *, processes: int, tokens: int, longest: int, seed: int) -> None:
        context = multiprocessing.get_context("fork")
        self._readers: list[Connection] = []
        self._processes = []
        for number in range(processes):
            reader, writer = context.Pipe(duplex=False)
            arguments = (writer, source, tokens, longest, seed * 10_007 + number)
            process = context.Process(target=_produce, args=arguments, daemon=True)
            process.start()
            writer.close()
            self._readers.append(reader)
            self._processes.append(process)

    def __enter__(self) -> BatchReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def __iter__(self) -> Iterator[Batch]:
        """Endless. Raises EOFError if a process has died."""
        while True:
            for reader in self._readers:
                rows, length = json.loads(reader.recv_bytes())
                ids = np.frombuffer(reader.recv_bytes(), np.uint16).reshape(rows, length)
                yield Batch(ids, np.frombuffer(reader.recv_bytes(), np.uint8).reshape(rows, length))


def _produce(writer: Connection, source: Source, tokens: int, longest: int, seed: int) -> None:
    try:
        for batch in batches(source(seed), tokens, longest, random.Random(seed)):
            writer.send_bytes(json.dumps(batch.ids.shape).encode())
            writer.send_bytes(batch.ids.tobytes())
            writer.send_bytes(batch.kind.tobytes())
    except (BrokenPipeError, KeyboardInterrupt):
        return
