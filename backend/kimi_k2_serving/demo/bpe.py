"""A byte-pair-encoding trainer: pieces and their counts in, token bytes in rank order out.

The ranks depend only on the pieces and their counts, not on their order: the next merge is the most frequent pair, and
among equally frequent ones the first in byte order. A merge updates only the pieces that contain the pair, so training
costs O(merges * changed pieces), not a pass over all text per merge. It does not know how text is split into pieces.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from kimi_k2_serving.core.errors import InvalidValue

# The order of the 256 single bytes in K2's tiktoken.model: the printable characters of Latin-1, then the others.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTES: tuple[bytes, ...] = tuple(
    bytes([value]) for value in (*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE))
)

_MIN_COUNT = 2  # a pair that occurs once is not a pattern

_Pair = tuple[bytes, bytes]


def train_merges(pieces: Mapping[bytes, int], ranks: int) -> list[bytes]:
    """Return `ranks` distinct tokens, the 256 bytes first. Raises InvalidValue if too few pairs occur twice."""
    return _Trainer(pieces).run(ranks)


class _Trainer:
    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        ordered = sorted(pieces.items())
        self._pieces: list[list[bytes]] = [[bytes([byte]) for byte in piece] for piece, _ in ordered]
        self._weights = [weight for _, weight in ordered]
        self._counts: Counter[_Pair] = Counter()
        self._holders: defaultdict[_Pair, set[int]] = defaultdict(set)
        for index in range(len(self._pieces)):
            self._count(index, 1)
        self._heap: list[tuple[int, _Pair]] = []
        self._push(self._counts)

    def run(self, ranks: int) -> list[bytes]:
        tokens = list(BYTES)
        known = set(tokens)
        while len(tokens) < ranks:
            pair = self._next()
            if pair is None:
                raise InvalidValue(f"the text yields only {len(tokens)} of {ranks} ranks; add text", field="corpus")
            token = pair[0] + pair[1]
            self._merge(pair, token)
            # Two different merges can produce the same bytes; the second one gets no rank of its own.
            if token not in known:
                known.add(token)
                tokens.append(token)
        return tokens

    def _next(self) -> _Pair | None:
        """The most frequent pair. Heap entries with an outdated count are skipped: the heap has a current one, too."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._counts[pair]:
                return pair
        return None

    def _merge(self, pair: _Pair, token: bytes) -> None:
        touched: set[_Pair] = set()
        for index in self._holders.pop(pair):
            touched.update(self._count(index, -1))
            self._pieces[index] = _joined(self._pieces[index], pair, token)
            touched.update(self._count(index, 1))
        self._push(touched)

    def _count(self, index: int, sign: int) -> set[_Pair]:
        piece, weight = self._pieces[index], self._weights[index] * sign
        pairs = set()
        for pair in pairwise(piece):
            self._counts[pair] += weight
            pairs.add(pair)
        for pair in pairs:
            if sign > 0:
                self._holders[pair].add(index)
            else:
                self._holders[pair].discard(index)
        return pairs

    def _push(self, pairs: Iterable[_Pair]) -> None:
        for pair in pairs:
            if self._counts[pair] >= _MIN_COUNT:
                heapq.heappush(self._heap, (-self._counts[pair], pair))


def _joined(piece: list[bytes], pair: _Pair, token: bytes) -> list[bytes]:
    """`piece` with every occurrence of `pair` replaced by `token`, from the left."""
    result: list[bytes] = []
    position = 0
    while position < len(piece):
        if position + 1 < len(piece) and (piece[position], piece[position + 1]) == pair:
            result.append(token)
            position += 2
        else:
            result.append(piece[position])
            position += 1
    return result
