"""The vocabularies of tests.support, as fixtures."""

from tests.support.vocabulary import reference, small_checkpoint, small_vocabulary, vocabulary

__all__ = ["reference", "small_checkpoint", "small_vocabulary", "vocabulary"]
