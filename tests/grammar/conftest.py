"""A small vocabulary, xgrammar's view of it, and dice to answer with."""

from __future__ import annotations

import warnings

import pytest

# Its SWIG dependency warns while it is imported; as an error that warning crashes the interpreter at its end.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import xgrammar  # noqa: F401

from kimi_k2_serving.core.tokens import Vocabulary
from tests.grammar.prover import Prover
from tests.support.vocabulary import reference, small_checkpoint, small_vocabulary, vocabulary

__all__ = ["prover", "reference", "small_checkpoint", "small_vocabulary", "vocabulary"]


@pytest.fixture(scope="session")
def prover(small_vocabulary: Vocabulary) -> Prover:
    return Prover(small_vocabulary)
