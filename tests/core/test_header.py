"""core/header.py: the tool that a header names, for each way to read it (rules A12 and A13)."""

from __future__ import annotations

import pytest

from kimi_k2_serving.core.events import Rejection
from kimi_k2_serving.core.header import resolve_header


@pytest.mark.parametrize(
    ("header", "tools", "name"),
    [
        # The documented form takes precedence.
        ("functions.a:0", {"a", "functions.a", "functions.a:0", "a:0"}, "a"),
        ("functions.a:0", {"functions.a", "functions.a:0", "a:0"}, "a:0"),
        ("functions.a:0", {"functions.a", "functions.a:0"}, "functions.a"),
        ("functions.a:0", {"functions.a:0"}, "functions.a:0"),
        ("a:0", {"a", "a:0"}, "a"),
        ("functions_a_0", {"a", "b"}, "a"),
        ("functions_a_b_12", {"a", "a_b"}, "a_b"),
        # The longest declared name after a namespace wins.
        ("x.y.a:0", {"a", "y.a"}, "y.a"),
        ("x:a:0", {"a", "b"}, "a"),
        ("x/a:0", {"a", "b"}, "a"),
        ("x.a", {"a", "b"}, "a"),
        ("7", {"a"}, "a"),
    ],
)
def test_the_first_reading_that_is_declared_is_the_name(header: str, tools: set[str], name: str) -> None:
    assert resolve_header(header, tools) == name
    assert resolve_header(f" {header}\n", tools) == name


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("functions_a", Rejection.MALFORMED_HEADER),
        ("a_0", Rejection.MALFORMED_HEADER),
        ("xfunctions_a_0", Rejection.MALFORMED_HEADER),
        ("a:x", Rejection.MALFORMED_HEADER),
        ("a:", Rejection.MALFORMED_HEADER),
        ("x_a:0", Rejection.UNDECLARED_NAME),
        ("x-a:0", Rejection.UNDECLARED_NAME),
        ("xa:0", Rejection.UNDECLARED_NAME),
        ("functions.x", Rejection.UNDECLARED_NAME),
        ("functions.", Rejection.MALFORMED_HEADER),
        (":0", Rejection.MALFORMED_HEADER),
        ("7", Rejection.MALFORMED_HEADER),
        ("", Rejection.MALFORMED_HEADER),
    ],
)
def test_a_header_that_names_no_tool_is_rejected_by_its_shape(header: str, reason: Rejection) -> None:
    assert resolve_header(header, {"a", "b"}) is reason


def test_nothing_is_declared_without_tools() -> None:
    assert resolve_header("7", ()) is Rejection.MALFORMED_HEADER
    assert resolve_header("functions.a:0", ()) is Rejection.UNDECLARED_NAME
