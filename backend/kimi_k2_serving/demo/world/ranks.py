"""The vocabulary of the trained demo model: 4,096 ranks, trained on text of the world.

A word has the same pieces in JSON (`"Oslo"`) as in a sentence (` Oslo`), except that a space may be part of the first
one: the tokens that begin with a space come last, so they are merged last. Else a small model would have to learn for
each word how its spelling after a space maps to the one after a quotation mark, and could not copy what it never saw.

`python -m kimi_k2_serving.demo.world.ranks` writes `ranks.tiktoken` from the world's text. The file in the repository
is from an earlier text; it stays as long as the shipped weights, which were trained with it.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from importlib import resources
from itertools import islice
from pathlib import Path

from kimi_k2_serving.core.render import Text
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.vocabulary_files import VocabularyFiles
from kimi_k2_serving.demo import bpe
from kimi_k2_serving.demo.vocabulary import NAMED, RANKS, RESERVED, corpus, pieces, tiktoken_model
from kimi_k2_serving.demo.world.mix import samples
from kimi_k2_serving.demo.world.sample import Split, marked

SAMPLES = 5_000
SEED = 0
# How many of the ranks begin with a space and go on with something else.
SPACED = 900
# A piece that is rarer than this is a made-up word.
_MIN_COUNT = 3


FILE = "ranks.tiktoken"


def vocabulary() -> Vocabulary:
    """The vocabulary of the world's text, from the file."""
    return with_ranks(read_ranks())


def read_ranks() -> list[bytes]:
    """Token bytes in rank order, from the file."""
    lines = resources.files(__package__).joinpath(FILE).read_bytes().splitlines()
    return [b64decode(line.split(b" ")[0]) for line in lines]


def train_ranks(count: int = SAMPLES, spaced: int = SPACED) -> list[bytes]:
    """Token bytes in rank order."""
    bare: Counter[bytes] = Counter()
    after_space: Counter[bytes] = Counter()
    for piece, times in _counted(count).items():
        if piece[:1] == b" " and piece[1:].strip():
            after_space[piece[1:]] += times
            bare[piece[1:]] += times
        else:
            bare[piece] += times
    kept = Counter({piece: times for piece, times in bare.items() if times >= _MIN_COUNT})
    tokens = bpe.train_merges(kept, RANKS - spaced)
    return [*tokens, *_spaced(tokens, after_space, spaced)]


def _counted(count: int) -> Counter[bytes]:
    counts: Counter[bytes] = Counter(pieces(corpus()))
    for sample in islice(samples(Split.TRAIN, SEED), count):
        for segment, _ in marked(sample):
            if isinstance(segment, Text):
                counts.update(pieces(segment.text))
    return counts


def _spaced(tokens: list[bytes], after_space: Counter[bytes], count: int) -> list[bytes]:
    """The most frequent first tokens of words after a space, with that space."""
    vocabulary = with_ranks(tokens)
    first: Counter[bytes] = Counter()
    for piece, times in after_space.items():
        first[tokens[vocabulary.encode(piece.decode())[0]]] += times
    known = set(tokens)
    ordered = sorted(first, key=lambda token: (-first[token], token))
    return [b" " + token for token in ordered if b" " + token not in known][:count]


def with_ranks(tokens: list[bytes]) -> Vocabulary:
    """A vocabulary of these tokens and K2's control tokens."""
    names = {offset: name for offset, (name, _) in NAMED.items()}
    controls = {
        names.get(offset, f"<|reserved_token_{len(tokens) + offset}|>"): len(tokens) + offset
        for offset in range(RESERVED)
    }
    return Vocabulary(VocabularyFiles(tokens=tuple(tokens), controls=controls, sort_tool_keys=False))


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_bytes(tiktoken_model(train_ranks()))
