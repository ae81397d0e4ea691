"""core/typed_json.py: an object that is closed refuses the keys that nobody reads, by their path."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.errors import UnknownField
from kimi_k2_serving.core.typed_json import closed


def test_a_key_that_nobody_reads_is_named_unless_it_asks_for_nothing() -> None:
    closed({"a": 1, "b": None}, "x", ("a",))
    with pytest.raises(UnknownField) as caught:
        closed({"a": 1, "b" * 99: False}, "x", ("a",))
    assert caught.value.field == f"x.{'b' * 64}"
