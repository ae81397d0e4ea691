"""The judge of finished calls: exact where floats are not, linear where patterns are hostile."""

from __future__ import annotations

import time

import pytest

from kimi_k2_serving.core.messages import FormatKind, Json, ResponseFormat
from kimi_k2_serving.json_schema.validate import validate, validate_answer
from tests.grammar.prover import tool


@pytest.mark.parametrize(
    ("schema", "text", "problems"),
    [
        ({"type": "number", "multipleOf": 0.1}, "0.3", []),
        ({"type": "number", "multipleOf": 0.01}, "19.99", []),
        ({"type": "number", "multipleOf": 0.1}, "0.35", ["arguments.v: multipleOf"]),
        ({"type": "string", "pattern": "^a"}, '"b"', ["arguments.v: pattern"]),
        ({"type": "integer", "minimum": 3}, "2", ["arguments.v: minimum"]),
        ({"enum": [1]}, "true", ["arguments.v: enum"]),
        ({"items": {"type": "null"}}, "[null, 1]", ["arguments.v[1]: type"]),
    ],
)
def test_problems_name_place_and_keyword(schema: dict[str, Json], text: str, problems: list[str]) -> None:
    assert validate(f'{{"v": {text}}}', tool({"properties": {"v": schema}})) == problems


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', '{"v": NaN}', "[" * 5_000])
def test_what_is_no_json_object_is_a_problem(text: str) -> None:
    assert validate(text, tool(None)) == ["arguments: no JSON object"]


def test_a_tool_that_is_not_strict_is_not_judged() -> None:
    assert validate('{"x": 1}', tool({"required": ["y"]}, strict=False)) == []


def test_a_hostile_pattern_costs_linear_time() -> None:
    hostile = tool({"properties": {"v": {"pattern": "^(a+)+$"}}})
    began = time.process_time()
    assert validate('{"v": "' + "a" * 20_000 + '!"}', hostile) == ["arguments.v: pattern"]
    assert time.process_time() - began < 5


def test_undeclared_and_patterned_names() -> None:
    schema: dict[str, Json] = {"patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": False}
    assert validate('{"n1": 1}', tool(schema)) == []
    assert validate('{"n1": "1"}', tool(schema)) == ["arguments.n1: type"]
    assert validate('{"m": 1}', tool(schema)) == ["arguments: additionalProperties"]
    assert validate("{}", tool(False)) == ["arguments: schema"]


def test_answers_in_a_format_are_judged() -> None:
    counted = ResponseFormat(FormatKind.JSON_SCHEMA, {"type": "array"})
    assert validate_answer("[]", counted) == []
    assert validate_answer("{}", counted) == ["answer: type"]
    assert validate_answer("{}", ResponseFormat(FormatKind.JSON_OBJECT)) == []
    assert validate_answer("1", ResponseFormat(FormatKind.JSON_OBJECT)) == ["answer: no JSON object"]
    assert validate_answer("x", counted) == ["answer: no JSON"]
    assert validate_answer("x", ResponseFormat()) == []


def test_references_that_meet_again_do_not_double_the_work() -> None:
    step: dict[str, Json] = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    twice = tool({"anyOf": [step, {**step}, {"type": "string"}]})
    began = time.process_time()
    assert validate('{"a": ' * 60 + "1" + "}" * 60, twice) != []
    assert time.process_time() - began < 5
