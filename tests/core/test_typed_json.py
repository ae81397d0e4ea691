"""core/typed_json.py: a closed object refuses unknown keys and names their path."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.errors import UnknownField
from kimi_k2_serving.core.typed_json import closed


def test_an_unknown_key_is_refused_by_its_path_unless_it_is_null() -> None:
    closed({"a": 1, "b": None}, "x", ("a",))
    with pytest.raises(UnknownField) as caught:
        closed({"a": 1, "b" * 99: False}, "x", ("a",))
    assert caught.value.field == f"x.{'b' * 64}"
