"""The demo checkpoint and the published vocabulary, as fixtures."""

from tests.support.demo import demo
from tests.support.vocabulary import reference

__all__ = ["demo", "reference"]
