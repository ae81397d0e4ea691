"""The cost of compiling a schema is bounded: keywords are given up one by one, and each of them is reported."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat
from kimi_k2_serving.grammar.constraint import Effort, constrain
from kimi_k2_serving.json_schema import code_points
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.ebnf import Interval
from kimi_k2_serving.json_schema.strings import every_text_but, passes
from kimi_k2_serving.json_schema.writer import RuleWriter
from tests.grammar.prover import Prover, request, tool
from tests.grammar.test_json_schema_suite import accepts

LARGEST_DOUBLE = sys.float_info.max
OPEN = {"additionalProperties": {"type": "string"}}


def written(schema: dict[str, Any], most: float = 32.0) -> RuleWriter:
    writer = RuleWriter(Bounds.production(), passes=most)
    writer.value(schema, "x")
    return writer


@pytest.mark.parametrize(
    ("schema", "given_up"),
    [
        ({"format": "regex"}, ["format"]),
        ({"format": "uri", "pattern": "^a"}, ["format"]),
        ({"format": "uri", "pattern": "^.[a-c]+.*x$"}, ["format", "pattern"]),
        ({"minLength": 20}, ["minLength"]),
        ({"minLength": 20, "maxLength": 25}, ["maxLength", "minLength"]),
        ({"maxLength": 2_147_483_647}, ["maxLength"]),
    ],
)
def test_without_passes_left_each_keyword_of_a_string_that_costs_some_is_given_up(
    schema: dict[str, Any], given_up: list[str]
) -> None:
    writer = written({"type": "string", **schema}, 0.5)
    assert list(writer.relaxed) == [f"x: {keyword}" for keyword in given_up]
    assert writer.passes <= 1.5


def test_many_objects_with_undeclared_names_stay_within_the_passes() -> None:
    objects = {f"o{i}": {"type": "object", "properties": {f"left{i}": {}, f"right{i}": {}}, **OPEN} for i in range(60)}
    for most in (8.0, 32.0):
        writer = written({"type": "object", "properties": objects}, most)
        assert writer.relaxed == ()
        assert writer.passes <= most + 0.35 * len(objects)


def test_the_cheapest_undeclared_names_begin_like_no_declared_one() -> None:
    kept = every_text_but(frozenset({"left", "right", "Zed"}), 0.5)
    assert passes(kept) <= 0.5
    assert all(map(kept.accepts, ("name", "_x", "a left", "9")))
    assert not any(map(kept.accepts, ("left", "lefty", "right", "Zed", "", "漢")))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["number", "integer"])
def test_a_range_that_no_written_number_leaves_is_no_range(kind: str, sign: int) -> None:
    ends = {"minimum": -LARGEST_DOUBLE, "maximum": LARGEST_DOUBLE}
    assert written({"type": kind, **ends}).relaxed == ()
    assert written({"type": kind, **ends}).rules == written({"type": kind}).rules
    end = {"minimum": 1e300} if sign > 0 else {"maximum": -1e300}
    assert written({"type": kind, **end}).relaxed == (f"x: {next(iter(end))}",)


def test_a_number_that_is_excluded_makes_no_text_longer_than_its_bound(prover: Prover) -> None:
    schema = {"type": "integer", "maximum": 1e117, "not": {"const": 1e117}}
    assert written(schema).rules == written({"type": "integer"}).rules


def test_each_keyword_of_a_number_that_is_lost_is_named() -> None:
    lost = {"type": "number", "not": {"anyOf": [{"multipleOf": 13001}, {"const": 0.5}]}}
    assert written(lost).relaxed == ("x: not",)
    fraction = {"type": "number", "not": {"type": "integer"}, "minimum": 1e-200}
    assert written(fraction).relaxed == ("x: minimum",)


def test_a_pattern_without_an_automaton_is_reported_for_listed_values_and_declared_names() -> None:
    names = {"type": "object", "properties": {"foo": {}}, "additionalProperties": False}
    for pattern in (r"(a)\1", r"\bx", "(?=a)a"):
        assert written({"enum": ["foo", "aa"], "pattern": pattern}).relaxed == ("x: pattern",)
        assert written({**names, "propertyNames": {"pattern": pattern}}).relaxed == ("x.propertyNames: pattern",)


def test_what_remains_of_a_number_is_enforced(prover: Prover) -> None:
    price = {"type": "number", "minimum": 1e300, "multipleOf": 0.01}
    writer = written({"type": "object", "properties": {"price": price, "count": {"type": "integer", "minimum": 3}}})
    assert set(writer.relaxed) == {"x.properties.price: multipleOf", "x.properties.price: minimum"}
    parameters = {"type": "object", "properties": {"n": {"type": "number", "maximum": LARGEST_DOUBLE}}}
    for text in prover.arguments(request(tool(parameters))):
        assert text.startswith("{")


def test_a_tool_whose_schema_admits_no_object_takes_any_and_says_so(prover: Prover) -> None:
    for parameters in ({"type": "array"}, {"type": "object", "allOf": [False]}, {"type": "object", "not": {}}, False):
        constraint = prover.constraint(request(tool(parameters), tool({"type": "object"}, "g")))
        assert constraint.relaxed == ("tools[0].function.parameters: schema",)
        with pytest.raises(InvalidSchema, match="admits no object") as caught:
            prover.constraint(request(tool(parameters, insists=True)))
        assert caught.value.field == "tools[0].function.parameters"


def test_an_answer_whose_schema_is_given_up_is_still_an_object(prover: Prover) -> None:
    wanted = ResponseFormat(FormatKind.JSON_SCHEMA, {"type": "object", "properties": {"a": {"type": "integer"}}})
    conversation = Conversation((), response_format=wanted)
    given_up = Effort(free=frozenset({"response_format.json_schema.schema"}))
    constraint = constrain(conversation, prover.vocabulary, bounds=Bounds.production(), effort=given_up)
    assert constraint.relaxed == ("response_format.json_schema.schema: schema",)
    grammar = prover.grammars.compile_structural_tag(str(constraint.structural_tag))
    stop = prover.vocabulary.stop_ids[0]
    assert [accepts(grammar, text, stop) for text in ('{"a":"b"}', "{}", "true", "[]")] == [True, True, False, False]


def test_less_effort_is_what_the_worker_asks_for(prover: Prover) -> None:
    conversation = request(tool({"type": "object", "properties": {"p": {"type": "string", "format": "regex"}}}))
    whole = constrain(conversation, prover.vocabulary, bounds=Bounds.production())
    less = constrain(conversation, prover.vocabulary, bounds=Bounds.production(), effort=Effort(8.0))
    assert whole.relaxed == ()
    assert less.relaxed == ("tools[0].function.parameters.properties.p: format",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "test"),
    [
        (lambda: code_points.unicode_class("d"), str.isdecimal),
        (lambda: code_points.unicode_class("w"), lambda c: c.isalnum() or c == "_"),
        (lambda: code_points.unicode_class("s"), lambda c: c.isspace() or c == "\ufeff"),
        (lambda: code_points.category("L"), lambda c: unicodedata.category(c)[0] == "L"),
        (lambda: code_points.category("Lu"), lambda c: unicodedata.category(c) == "Lu"),
    ],
)
def test_classes_of_characters_are_python_s(
    found: Callable[[], tuple[Interval, ...]], test: Callable[[str], bool]
) -> None:
    def runs() -> Iterator[Interval]:
        start: int | None = None
        for code in range(sys.maxunicode + 2):
            inside = code <= sys.maxunicode and test(chr(code))
            if inside and start is None:
                start = code
            elif not inside and start is not None:
                yield start, code - 1
                start = None

    assert found() == tuple(runs())
