"""xgrammar's view of the vocabulary, and random answers drawn from a compiled grammar.

A control id must match as a token and never as characters: its bytes begin with 0xFF, which no UTF-8 text contains.
(Without any bytes xgrammar would treat it as a special token and refuse it everywhere.) Imports xgrammar and torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy
import xgrammar

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar import yielding

CONTROL_BYTE = b"\xff"


def token_info(vocabulary: Vocabulary) -> xgrammar.TokenizerInfo:
    """The vocabulary; `engine_vocabulary` gives the engine the same one."""
    controls = {number: name for name, number in vocabulary.controls.items()}
    pieces = [
        CONTROL_BYTE + controls[number].encode() if number in controls else vocabulary.token_bytes(number)
        for number in range(vocabulary.size)
    ]
    return xgrammar.TokenizerInfo(
        pieces, xgrammar.VocabType.RAW, vocab_size=vocabulary.size, stop_token_ids=list(vocabulary.stop_ids)
    )


def compiler(info: xgrammar.TokenizerInfo) -> xgrammar.GrammarCompiler:
    """A compiler without xgrammar's cache, which takes rules that differ only in token ids for equal (0.2.7)."""
    return xgrammar.GrammarCompiler(info, max_threads=yielding.threads(), cache_enabled=False)


@dataclass(frozen=True, slots=True)
class Walk:
    """The ids drawn; `ended` is false if the answer did not end within `most` tokens."""

    ids: tuple[int, ...]
    ended: bool


def walk(grammar: xgrammar.CompiledGrammar, stop_ids: frozenset[int], dice: Random, *, most: int) -> Walk:
    """One answer: each token is drawn uniformly among the allowed ones. Raises ValueError for a wrong mask."""
    matcher = xgrammar.GrammarMatcher(grammar)
    size = grammar.tokenizer_info.vocab_size
    mask = xgrammar.allocate_token_bitmask(1, size)
    ids: list[int] = []
    while len(ids) < most:
        matcher.fill_next_token_bitmask(mask)
        allowed = numpy.flatnonzero(numpy.unpackbits(mask.numpy().view(numpy.uint8), bitorder="little")[:size])
        if not len(allowed):
            raise ValueError("no token is allowed")
        token = int(allowed[dice.randrange(len(allowed))])
        if not matcher.accept_token(token):
            raise ValueError("an allowed token was refused")
        if token in stop_ids:
            return Walk(tuple(ids), True)
        ids.append(token)
    return Walk(tuple(ids), False)
