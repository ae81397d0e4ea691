"""Whatever mix of keywords a schema has: it is refused by its path, or every drawn call validates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.json_schema.validate import validate
from tests.grammar.prover import Prover, request, stock_problems, tool

NAMES = st.sampled_from(["a", "b", "dd", "é", "a b", "x-1"])
SMALL = st.integers(0, 5)
VALUES: list[Any] = ["a", "b", "", "x y", 1, 0, -3, 2.5, None, True, False, [1], {"a": 1}, "é"]
PATTERNS = st.sampled_from(["^[a-z]+$", "[0-9]", "^a.*z$", "^(ab|cd)*$", r"^\w{2,5}$", "^[^x]*$", r"^\d+\.\d*$"])
BOUNDS = st.integers(-50, 50) | st.sampled_from([-2.5, 0.25, 7.75])


def some(fixed: dict[str, Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({key: st.just(value) for key, value in fixed.items()}, optional=optional)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    many = st.lists(inner, min_size=1, max_size=3)
    return (
        some(
            {"type": "object"},
            properties=st.dictionaries(NAMES, inner, max_size=3),
            required=st.lists(NAMES, max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(st.sampled_from(["^x-", "a", "^[a-z]{2}$"]), inner, max_size=1),
            propertyNames=st.sampled_from([{"maxLength": 2}, {"pattern": "^[a-c]"}]),
            minProperties=st.integers(0, 2),
            maxProperties=st.integers(1, 3),
            dependentRequired=st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
        )
        | some(
            {"type": "array"},
            items=inner,
            prefixItems=many,
            minItems=st.integers(0, 3),
            maxItems=st.integers(2, 5),
            uniqueItems=st.booleans(),
            contains=inner,
        )
        | st.builds(lambda word, options: {word: options}, st.sampled_from(["anyOf", "oneOf", "allOf"]), many)
        | st.builds(lambda each: {"not": each}, inner)
        | st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner)
    )


SCALARS = (
    some({"type": "string"}, minLength=SMALL, maxLength=st.integers(5, 12), pattern=PATTERNS)
    | some({"type": "integer"}, minimum=BOUNDS, maximum=BOUNDS, multipleOf=st.sampled_from([2, 3, 7]))
    | some({"type": "number"}, exclusiveMinimum=BOUNDS, exclusiveMaximum=BOUNDS, multipleOf=st.sampled_from([0.5, 2]))
    | st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))
    | st.sampled_from([True, {}, {"type": "null"}, {"type": ["boolean", "string"]}, {"$ref": "#/$defs/shared"}])
)
SCHEMAS = st.recursive(SCALARS, _containers, max_leaves=8)
SHARED = SCHEMAS.filter(lambda each: "#/$defs/shared" not in json.dumps(each))


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(properties=st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3), shared=SHARED, seed=st.integers(0, 9999))
def test_every_drawn_call_validates(prover: Prover, properties: dict[str, Any], shared: Any, seed: int) -> None:
    schema = {"$defs": {"shared": shared}, "type": "object", "properties": properties, "required": list(properties)[:1]}
    conversation = request(tool(schema))
    refused = ""
    try:
        relaxed = prover.constraint(conversation).relaxed
    except InvalidSchema as error:
        refused = error.field
    if refused:
        assert refused.startswith("tools[0].function.parameters")
        return
    for text in prover.arguments(conversation, answers=2, seed=seed):
        if not relaxed:
            assert validate(text, tool(schema)) == []
            assert stock_problems(schema, json.loads(text)) == []
