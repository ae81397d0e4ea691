from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.demo.bpe import BYTES, train_merges

PIECES = st.dictionaries(st.binary(min_size=1, max_size=8), st.integers(1, 9), min_size=1, max_size=12)


def count_everything_again(pieces: dict[bytes, int], ranks: int) -> list[bytes]:
    """The same rule without bookkeeping: all pairs are counted again before each merge."""
    split = {piece: [bytes([byte]) for byte in piece] for piece in pieces}
    tokens = list(BYTES)
    while len(tokens) < ranks:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for piece, parts in split.items():
            for pair in pairwise(parts):
                counts[pair] += pieces[piece]
        repeated = [(-count, pair) for pair, count in counts.items() if count >= 2]
        if not repeated:
            raise InvalidValue("too little text")
        left, right = min(repeated)[1]
        for parts in split.values():
            position = 0
            while position < len(parts) - 1:
                if parts[position] == left and parts[position + 1] == right:
                    parts[position : position + 2] = [left + right]
                position += 1
        if left + right not in tokens:
            tokens.append(left + right)
    return tokens


def test_the_256_bytes_come_first_in_the_order_of_the_published_file() -> None:
    assert sorted(BYTES) == [bytes([value]) for value in range(256)]
    assert (BYTES[0], BYTES[27], BYTES[91], BYTES[188], BYTES[255]) == (b"!", b"<", b"|", b"\x00", b"\xad")


def test_the_most_frequent_pair_is_merged_first_and_ties_go_by_bytes() -> None:
    assert train_merges({b"ab": 3, b"cd": 5, b"aa": 3}, 259)[256:] == [b"cd", b"aa", b"ab"]


@given(pieces=PIECES, merges=st.integers(0, 12))
def test_updating_counts_gives_the_same_merges_as_counting_again(pieces: dict[bytes, int], merges: int) -> None:
    try:
        expected = count_everything_again(pieces, 256 + merges)
    except InvalidValue:
        with pytest.raises(InvalidValue):
            train_merges(pieces, 256 + merges)
    else:
        assert train_merges(pieces, 256 + merges) == expected


@given(pieces=PIECES, data=st.data())
def test_the_order_of_the_pieces_does_not_matter(pieces: dict[bytes, int], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(pieces.items()))))
    for ranks in (257, 260):
        try:
            expected = train_merges(pieces, ranks)
        except InvalidValue:
            continue
        assert train_merges(shuffled, ranks) == expected


def test_the_same_bytes_from_two_merges_get_one_rank() -> None:
    tokens = train_merges({b"abc": 9, b"ab": 5, b"bc": 30, b"xabc": 9, b"xa": 90, b"xab": 60}, 261)
    assert len(set(tokens)) == len(tokens) == 261


def test_text_with_too_few_repetitions_is_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidValue, match="257 of 300"):
        train_merges({b"ab": 2, b"cd": 1}, 300)
