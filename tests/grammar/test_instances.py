"""Instances that a grammar has to take or to refuse, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Conversation, FormatKind, ResponseFormat
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.schema import Schema
from kimi_k2_serving.json_schema.strings import every_text_but
from tests.grammar.prover import Prover, request, tool
from tests.grammar.test_json_schema_suite import accepts

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
LISTED = {"const": {"a": -2.0, "b": [1, {"c": "x"}]}}
ALONE = {
    "$schema": DRAFT_7,
    "not": {"$ref": "#/definitions/i", "minimum": 5},
    "definitions": {"i": {"type": "integer"}},
}
MANY: dict[str, Any] = {
    "anyOf": [{"required": [f"x{i}"], "properties": {f"x{i}": False}} for i in range(120)]
    + [{"required": ["y"], "properties": {"y": {"type": "integer"}}}]
}
OPEN = {"properties": {"content": {"type": "string"}}, "additionalProperties": True}


def taken(prover: Prover, schema: Schema, *texts: str) -> list[bool]:
    wanted = Conversation((), response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema))
    constraint = prover.constraint(wanted, Bounds.production())
    assert constraint.relaxed == ()
    assert constraint.structural_tag is not None
    grammar = prover.grammars.compile_structural_tag(constraint.structural_tag)
    return [accepts(grammar, text, prover.vocabulary.stop_ids[0]) for text in texts]


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (LISTED, ['{"a": -2.0, "b": [1, {"c": "x"}]}', '{"b":[1,{"c":"x"}],"a":-2}'], ['{"a":-3,"b":[1,{"c":"x"}]}']),
        ({"enum": [[], {}, 3]}, ["[]", "{}", "3"], ["[3]", "3.5"]),
        (ALONE, ['"x"', "2.5"], ["3", "7"]),
        ({"type": "string", "format": "duration"}, ['"PT1H"', '"PT1H2M3S"', '"P1Y2M"'], ['"PT1H2S"', '"P1Y2D"']),
        ({"type": "string", "pattern": r"^\p{Letter}+$"}, ['"aé漢"'], ['"1"', '"a b"']),
        ({"type": "string", "pattern": r"^\P{gc=Nd}$"}, ['"a"'], ['"1"']),
        ({"type": "string", "pattern": r"^\cJ$"}, [r'"\n"'], ['"J"']),
        ({"type": "string", "pattern": "(?i)^ab[c-e]$"}, ['"ABD"', '"abc"'], ['"abf"']),
        ({"not": {"pattern": "(?i)^k"}, "type": "string"}, ['"a"'], ['"K"', '"k"', '"\u212a"']),
        ({"type": "object", "properties": {}}, ["{}"], ['{"a":1}']),
        ({"type": "object"}, ["{}", '{"a":1}'], ["[]"]),
        ({"type": "object", "properties": {}, "minProperties": 1}, ['{"a":1}'], ["{}"]),
        ({"type": "object", **MANY}, ['{"y":1}'], ['{"x1":1}']),
        ({"type": "string", "not": {"pattern": "^(?=a)b|c"}}, ['"b"', '"a"'], ['"c"', '"xc"']),
        ({"type": "string", "pattern": "^(?!a$)[a-c]$|^a$|^(x|y)"}, ['"a"', '"b"', '"yz"'], ['"d"', '"zy"']),
        ({"enum": ["c", "b"], "pattern": "^(?=a)b|c"}, ['"c"'], ['"b"']),
        ({"type": "number", "not": {"multipleOf": 2}}, ["3", "4.5"], ["4", "4.0", "0.00", "-2.0"]),
        ({"type": "number", "not": {"multipleOf": 0.5}}, ["1.25", "0.3"], ["1.50", "2", "2.0", "0.5"]),
        ({"type": "number", "minimum": 0, "maximum": 9, "not": {"multipleOf": 1}}, ["5.5"], ["5.0", "5"]),
        ({"enum": ["a\n", "b"], "pattern": "^[ab]$"}, ['"b"'], ['"a\\n"']),
        (OPEN, ['{"contents":1}', '{"conten":1}', '{"ton":1}', '{"漢":1}'], ['{"content":1}']),
    ],
)
def test_right_spellings_are_taken_and_wrong_ones_are_not(
    schema: Schema, right: list[str], wrong: list[str], prover: Prover
) -> None:
    assert taken(prover, schema, *right, *wrong) == [True] * len(right) + [False] * len(wrong)


def test_a_name_that_begins_as_a_declared_one_is_kept_as_far_as_the_passes_go() -> None:
    texts = frozenset({"content", "con", "name"})
    for most in (100.0, 8.0, 6.0, 4.0, 0.0):
        kept = every_text_but(texts, most)
        assert not any(map(kept.accepts, texts))
        assert kept.accepts("xyz")
    assert every_text_but(texts, 100).accepts("con漢")
    assert every_text_but(texts, 8).accepts("con-tact me")
    assert every_text_but(texts, 6).accepts("contact")


def test_a_length_beyond_all_counting_is_given_up_at_once(prover: Prover) -> None:
    long = {"properties": {"x": {"type": "string", "maxLength": 2**31 - 1}}}
    (given_up,) = prover.constraint(request(tool(long)), Bounds.production()).relaxed
    assert given_up == "tools[0].function.parameters.properties.x: maxLength"


def test_what_is_given_up_of_a_negated_definition_says_so(prover: Prover) -> None:
    schema = {"type": "array", "not": {"$ref": "#/definitions/m"}, "definitions": {"m": {"uniqueItems": True}}}
    wanted = Conversation((), response_format=ResponseFormat(FormatKind.JSON_SCHEMA, schema))
    assert prover.constraint(wanted).relaxed == ("response_format.json_schema.schema.definitions.m: not",)


@pytest.mark.slow
def test_alternatives_that_were_left_out_make_no_schema_unsatisfiable(prover: Prover) -> None:
    """Each branch is dead by its third part, and those with a value left are beyond the first that are looked at."""
    dead = [{"minimum": i, "maximum": i, "multipleOf": 10_000} for i in range(1, 200)]
    asked = {"properties": {"n": {"type": "integer", "anyOf": [*dead, {"const": 7}]}}, "required": ["n"]}
    constraint = prover.constraint(request(tool(asked)))
    assert constraint.relaxed == ("tools[0].function.parameters: schema",)
    with pytest.raises(InvalidSchema, match="too many alternatives"):
        prover.constraint(request(tool(asked, insists=True)))
