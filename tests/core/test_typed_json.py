"""core/typed_json.py: a closed object refuses unknown keys and names their path."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.errors import UnknownField
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import closed, is_whole


@pytest.mark.parametrize(
    ("value", "whole"),
    [(0, True), (-(2**63), True), (2.0**63, True), (-1e25, True), (1.0, False), (2.0**62, False), (True, False)],
)
def test_an_integer_beyond_64_bits_is_whole_and_a_smaller_double_is_not(value: Json, whole: bool) -> None:
    assert is_whole(value) == whole


def test_an_unknown_key_is_refused_by_its_path_unless_it_is_null() -> None:
    closed({"a": 1, "b": None}, "x", ("a",))
    with pytest.raises(UnknownField) as caught:
        closed({"a": 1, "b" * 99: False}, "x", ("a",))
    assert caught.value.field == f"x.{'b' * 64}"
