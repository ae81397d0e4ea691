"""Whether a value satisfies a schema: for finished calls, and for the literals that a grammar may write.

jsonschema's 2020-12 validator with five keywords replaced: in `pattern`, `patternProperties` and `additionalProperties`
patterns run as automata (linear: a client's pattern never becomes a backtracking search), `multipleOf` is exact decimal
arithmetic, `$ref` never leaves the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextvars import ContextVar
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError

from kimi_k2_serving.core.messages import FormatKind, Json, ResponseFormat, Tool
from kimi_k2_serving.json_schema import pattern as patterns
from kimi_k2_serving.json_schema import schema as schemas
from kimi_k2_serving.json_schema.automaton import TooLarge

PROBLEMS = 8


def found(pattern: str, text: str, *, narrow: bool = False) -> bool | None:
    """Whether `pattern` is found in `text`; None if no automaton can be built for it. `narrow`: by every dialect."""
    try:
        return patterns.matching(pattern, narrow=narrow).accepts(text)
    except (patterns.NotRegular, TooLarge):
        return None


def exactly(number: Json) -> Fraction:
    """A JSON number as it is written in decimal, not as the nearest binary fraction."""
    return Fraction(number) if isinstance(number, int) else Fraction(Decimal(repr(number)))


def _pattern(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str):
        return
    judge = _judging.get()
    matches = found(pattern, value, narrow=judge.narrow)
    judge.undecided = judge.undecided or matches is None
    if matches is False:
        yield ValidationError("does not match the pattern")


def _pattern_properties(validator: Any, properties: dict[str, Any], value: Any, _: Any) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for pattern, schema in properties.items():
            for name in value:
                if found(pattern, name):
                    yield from validator.descend(value[name], schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, extra: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for name in value:
        known = name in schema.get("properties", {}) or any(
            found(pattern, name) for pattern in schema.get("patternProperties", {})
        )
        if not known and extra is False:
            yield ValidationError("has a property that is not declared")
        elif not known:
            yield from validator.descend(value[name], extra, path=name)


def _multiple_of(validator: Any, step: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "number") and (exactly(value) / exactly(step)).denominator != 1:
        yield ValidationError("is no multiple of multipleOf")


_extend: Any = jsonschema.validators.extend
# The Judge that resolves references. A validator class for each document instead would take 2 ms to make.
_judging: ContextVar[Judge] = ContextVar("judging")


def _reference(validator: Any, reference: str, value: Any, _: Any) -> Iterator[ValidationError]:
    yield from _judging.get().reference(validator, reference, value)


Validator: Any = _extend(
    jsonschema.Draft202012Validator,
    {
        "$ref": _reference,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    },
)


class Judge:
    """Checks values against the schemas of one document.

    During one check, a reference is evaluated once per value: without that, two references to the same schema would
    double the work at every level of the value.
    """

    def __init__(self, document: schemas.SchemaDocument) -> None:
        self._document = document
        self._seen: dict[tuple[str, int], bool] = {}
        # Whether a string has to match a pattern in every dialect; whether the last check met one without an automaton.
        self.narrow = self.undecided = False
        self._root = Validator(document.root)

    def reference(self, validator: Any, reference: str, value: Any) -> Iterator[ValidationError]:
        key = (reference, id(value))
        if key not in self._seen:
            errors = list(validator._validate_reference(ref=reference, instance=value))
            self._seen[key] = not errors
            yield from errors
        elif not self._seen[key]:
            yield ValidationError("does not satisfy the schema referred to")

    def satisfied(self, value: Json, pointer: schemas.Pointer, *, narrow: bool) -> bool:
        """`narrow`: of a pattern, take what all dialects match. A pattern without an automaton matches: `undecided`."""
        self._seen.clear()
        self.narrow, self.undecided = narrow, False
        _judging.set(self)
        return bool(self._root.evolve(schema=self._document.at(pointer)).is_valid(value))

    def problems(self, value: Any, *, name: str = "arguments") -> list[str]:
        """At most PROBLEMS lines `path: keyword`, with paths that begin with `name`; no part of the value is quoted."""
        lines = []
        self._seen.clear()
        self.narrow = False
        _judging.set(self)
        for error in self._root.iter_errors(value):
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
            # The schema `false` has no keyword to name.
            lines.append(f"{name}{path}: {error.validator or 'schema'}")
            if len(lines) == PROBLEMS:
                break
        return lines


def validate(arguments: str, tool: Tool) -> list[str]:
    """What is wrong with a call's arguments; [] if they are a JSON object that satisfies the tool's schema.

    Raises InvalidSchema if the tool's own schema is invalid.
    """
    value = _decoded(arguments)
    if not isinstance(value, dict):
        return ["arguments: no JSON object"]
    if tool.parameters is None or not tool.strict:
        return []
    return _judge(tool.parameters, f"tools.{tool.name}.function.parameters").problems(value)


def validate_answer(content: str, wanted: ResponseFormat) -> list[str]:
    """What is wrong with an answer that has to be JSON. Raises InvalidSchema as `validate` does."""
    if wanted.kind is FormatKind.TEXT:
        return []
    value = _decoded(content)
    if value is _NOT_JSON:
        return ["answer: no JSON"]
    match wanted.kind:
        case FormatKind.JSON_OBJECT:
            return [] if isinstance(value, dict) else ["answer: no JSON object"]
        case FormatKind.JSON_SCHEMA:
            schema = True if wanted.schema is None else wanted.schema
            return _judge(schema, "response_format.json_schema.schema").problems(value, name="answer")


def _judge(schema: schemas.Schema, path: str) -> Judge:
    return Judge(schemas.read_schema(schema, path))


_NOT_JSON = object()


def _decoded(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _refuse(_: str) -> Json:
    raise ValueError
