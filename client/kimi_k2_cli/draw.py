"""Draws answers at random from a compiled grammar: each token is a uniform choice among the allowed ones."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xgrammar


@dataclass(frozen=True, slots=True)
class Drawn:
    """The ids of one answer; `ended` is false if the limit came before its end."""

    ids: tuple[int, ...]
    ended: bool


def draw(grammar: xgrammar.CompiledGrammar, stop_ids: frozenset[int], dice: Random, *, limit: int) -> Drawn:
    """Draw one answer of at most `limit` tokens. Raises ValueError if the grammar allows no token at some place."""
    import numpy
    import xgrammar

    matcher = xgrammar.GrammarMatcher(grammar)
    size = grammar.tokenizer_info.vocab_size
    mask = xgrammar.allocate_token_bitmask(1, size)
    ids: list[int] = []
    while len(ids) < limit:
        matcher.fill_next_token_bitmask(mask)
        allowed = numpy.flatnonzero(numpy.unpackbits(mask.numpy().view(numpy.uint8), bitorder="little")[:size])
        if not len(allowed):
            raise ValueError("no token is allowed")
        token = int(allowed[dice.randrange(len(allowed))])
        if not matcher.accept_token(token):
            raise ValueError("an allowed token was refused")
        if token in stop_ids:
            return Drawn(tuple(ids), True)
        ids.append(token)
    return Drawn(tuple(ids), False)
