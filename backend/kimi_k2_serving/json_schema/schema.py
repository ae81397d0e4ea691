"""Read a client's JSON Schema: check it, enforce limits, rewrite it in the 2020-12 vocabulary, resolve its references.

Raises InvalidSchema with the path inside the request if something is not a schema, exceeds a limit, or refers to
something outside the document. Nothing is ever fetched. Linear in the size of the schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.limits import PATTERN_CHARACTERS, SCHEMA_BYTES, SCHEMA_DEPTH, SCHEMA_NODES, Limit
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema.references import Places, Reference, Steps, pointer_text

Schema = Mapping[str, Json] | bool
Pointer = tuple[str | int, ...]

# How many schemas may apply to one value. A schema that is reached in several ways counts each time.
_MAX_APPLIED = 10_000
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

_ONE = frozenset(
    (
        *("additionalProperties", "items", "contains", "not", "if", "then", "else"),
        *("propertyNames", "unevaluatedProperties", "unevaluatedItems"),
    )
)
_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DROPPED = frozenset(
    (
        *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment"),
        *("default", "examples", "example", "contentSchema"),
    )
)
# Where `$schema` names one of these drafts, the keywords beside a `$ref` are ignored.
_LONE_REFERENCES = ("draft-07/schema", "draft-06/schema", "draft-04/schema", "draft-03/schema")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class TooMuch(InvalidSchema):
    """The schema is valid, but a grammar for it would take too much work."""


@dataclass(frozen=True)
class SchemaDocument:
    """`root` is the schema in the 2020-12 vocabulary; `path` is its place in the request.

    Every `$ref` is the JSON pointer of a schema inside `root`; `targets` maps each to its steps.
    """

    root: Schema
    path: str
    targets: Mapping[str, Pointer] = field(default_factory=dict)

    def at(self, pointer: Pointer) -> Schema:
        """The schema at `pointer`, which must exist."""
        node: Any = self.root
        for step in pointer:
            node = node[step]
        return cast(Schema, node)

    def where(self, pointer: Pointer) -> str:
        return self.path + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in pointer)

    def resolve(self, reference: str) -> Pointer:
        return self.targets[reference]


def read_schema(schema: Schema, path: str) -> SchemaDocument:
    """Check one schema and rewrite it in the 2020-12 vocabulary. Raises InvalidSchema."""
    try:
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except (UnicodeEncodeError, ValueError, TypeError, RecursionError):
        raise InvalidSchema("is not valid JSON, or nests too deeply", field=path) from None
    _within(SCHEMA_BYTES, size, path)
    reader = _Reader(path)
    root = reader.schema(schema, _Place())
    document = SchemaDocument(root, path, reader.linked(schema, root))
    _check_progress(document)
    return document


def _check_progress(document: SchemaDocument) -> None:
    """Refuse a schema that refers back to itself for the same value (it has no meaning), and one that applies more
    than _MAX_APPLIED schemas to one value (references can double their number at every step).
    """
    applied: dict[Pointer, int] = {}
    for start in _places(document.root, ()):
        path: dict[Pointer, list[Pointer]] = {}
        waiting = [start]
        while waiting:
            pointer = waiting[-1]
            if pointer in applied:
                waiting.pop()
            elif pointer in path:
                total = 1 + sum(applied[target] for target in path.pop(pointer))
                if total > _MAX_APPLIED:
                    detail = f"applies more than {_MAX_APPLIED} schemas to one value; simplify it"
                    raise TooMuch(detail, field=document.where(pointer))
                applied[pointer] = total
            else:
                path[pointer] = _in_place(document, pointer)
                if any(target in path for target in path[pointer]):
                    detail = "refers to itself for the same value; refer to it from a property or an item"
                    raise InvalidSchema(detail, field=document.where(pointer))
                waiting.extend(path[pointer])


def _places(schema: Any, pointer: Pointer) -> Iterator[Pointer]:
    """The pointers of every schema in a document, inner schemas first."""
    if isinstance(schema, bool):
        return
    for keyword, value in schema.items():
        here = (*pointer, keyword)
        if keyword in _ONE:
            yield from _places(value, here)
        elif keyword in _MANY and isinstance(value, list):
            for i, item in enumerate(value):
                yield from _places(item, (*here, i))
        elif keyword in NAMED and isinstance(value, dict):
            for name, item in value.items():
                yield from _places(item, (*here, name))
    yield pointer


def _in_place(document: SchemaDocument, pointer: Pointer) -> list[Pointer]:
    """The schemas that the one at `pointer` applies to the same value (not to its members)."""
    schema: Any = document.at(pointer)
    if isinstance(schema, bool):
        return []
    found: list[Pointer] = [(*pointer, word) for word in ("not", "if", "then", "else") if word in schema]
    for word in ("allOf", "anyOf", "oneOf"):
        found += [(*pointer, word, i) for i in range(len(schema.get(word, ())))]
    found += [(*pointer, "dependentSchemas", name) for name in schema.get("dependentSchemas", {})]
    if "$ref" in schema:
        found.append(document.resolve(str(schema["$ref"])))
    return found


def _within(limit: Limit, actual: int, path: str) -> None:
    if actual > limit.value:
        raise InvalidSchema(f"{actual} {limit.unit}, the limit ({limit.name}) is {limit.value}", field=path)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a schema stands: `pointer` in the rewritten document, `steps` in the document as the client wrote it."""

    pointer: Pointer = ()
    steps: Steps = ()
    base: str = ""
    depth: int = 0

    def inside(self, keyword: str, written: str, *more: str | int) -> _Place:
        steps = (*self.steps, written, *map(str, more))
        return _Place((*self.pointer, keyword, *more), steps, self.base, self.depth + 1)


class _Reader:
    def __init__(self, path: str) -> None:
        self.path = path
        self.nodes = 0
        self._lone_references = False
        self.places = Places()
        self.read: dict[Steps, Pointer] = {}
        self.references: list[tuple[dict[str, Any], _Place, Reference]] = []

    def schema(self, value: Any, place: _Place) -> Schema:
        if isinstance(value, bool):
            self._count(1, place.pointer)
            self.read[place.steps] = place.pointer
            return value
        if not isinstance(value, Mapping):
            self._fail("must be a schema: an object, true or false", place.pointer)
        self._count(1, place.pointer)
        if place.depth > SCHEMA_DEPTH.value:
            limit = SCHEMA_DEPTH
            self._fail(f"nests deeper than the limit ({limit.name}) of {limit.value} levels", place.pointer)
        self.read[place.steps] = place.pointer
        if not place.steps:
            self._lone_references = str(value.get("$schema")).rstrip("#").endswith(_LONE_REFERENCES)
        if self._lone_references and isinstance(value.get("$ref"), str):
            value = {word: inner for word, inner in value.items() if word in ("$ref", "$defs", "definitions")}
        place = replace(place, base=self.places.enter(value, place.base, place.steps))
        modern, written = _modernise(value)
        result: dict[str, Any] = {}
        for keyword, inner in modern.items():
            if keyword in _REFERENCES:
                self._reference(keyword, inner, place, result)
            elif keyword not in _DROPPED:
                result[keyword] = self._keyword(keyword, inner, place, written.get(keyword, keyword))
        return result

    def _reference(self, keyword: str, value: Any, place: _Place, result: dict[str, Any]) -> None:
        if not isinstance(value, str):
            self._fail("must be a string", (*place.pointer, keyword))
        if result.setdefault("$ref", "") == "":
            self.references.append((result, place, Reference(value, place.base, keyword != "$ref")))

    def linked(self, written: Schema, root: Schema) -> dict[str, Pointer]:
        """Resolve every reference; a target such as `#/components/schemas/X` is read and put under `$defs`."""
        targets: dict[str, Pointer] = {}
        for result, place, reference in self.references:
            pointer = self._target(reference, written, root)
            if pointer is None:
                detail = "refers to nothing in this schema; put the target under $defs and use #/$defs/NAME"
                self._fail(detail, (*place.pointer, "$ref"))
            result["$ref"] = pointer_text(pointer)
            targets[result["$ref"]] = pointer
        return targets

    def _target(self, reference: Reference, written: Any, root: Any) -> Pointer | None:
        candidates = self.places.candidates(reference)
        for steps in candidates:
            if steps in self.read:
                return self.read[steps]
        for steps in candidates:
            node = _walked(written, steps)
            if isinstance(node, Mapping | bool):
                definitions = root.setdefault("$defs", {})
                name = ".".join(steps)
                place = _Place(("$defs", name), steps, reference.base, 1)
                definitions[name] = self.schema(node, place)
                return place.pointer
        return None

    def _keyword(self, keyword: str, value: Any, place: _Place, written: str) -> Any:
        here = (*place.pointer, keyword)
        if keyword in _ONE:
            return self.schema(value, place.inside(keyword, written))
        if keyword in _MANY:
            if not isinstance(value, list) or not value:
                self._fail("must be a list of one or more schemas", here)
            return [self.schema(item, place.inside(keyword, written, i)) for i, item in enumerate(value)]
        if keyword in NAMED:
            if not isinstance(value, dict):
                self._fail("must be an object whose values are schemas", here)
            if keyword == "patternProperties":
                for pattern in value:
                    self._pattern(pattern, here)
            return {name: self.schema(item, place.inside(keyword, written, name)) for name, item in value.items()}
        if keyword in _CHECKS:
            problem = _CHECKS[keyword](value)
            if problem:
                self._fail(problem, here)
        if keyword == "pattern":
            self._pattern(str(value), here)
        if keyword == "enum" and isinstance(value, list):
            self._count(len(value), here)
        return value

    def _pattern(self, pattern: str, pointer: Pointer) -> None:
        if len(pattern) > PATTERN_CHARACTERS.value:
            limit = PATTERN_CHARACTERS
            self._fail(f"{len(pattern)} {limit.unit}, the limit ({limit.name}) is {limit.value}", pointer)

    def _count(self, more: int, pointer: Pointer) -> None:
        self.nodes += more
        if self.nodes > SCHEMA_NODES.value:
            self._fail(f"has more than the limit ({SCHEMA_NODES.name}) of {SCHEMA_NODES.value} nodes", ())

    def _fail(self, detail: str, pointer: Pointer) -> NoReturn:
        raise InvalidSchema(detail, field=SchemaDocument(True, self.path).where(pointer))


def _walked(node: Any, steps: Steps) -> Any:
    """The node at an address of the document as the client wrote it; None if there is none."""
    for step in steps:
        if isinstance(node, Mapping) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            return None
    return node


def _modernise(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Rewrite keywords of earlier drafts as 2020-12 has them; also returns the original keyword of each that changed.

    All other keywords stay as they are, in their order.
    """
    result = dict(value)
    written: dict[str, str] = {}
    if isinstance(result.get("items"), list):
        rest = result.pop("additionalItems", None)
        result["prefixItems"] = result.pop("items")
        written["prefixItems"] = "items"
        if not result["prefixItems"]:
            del result["prefixItems"]
        if rest is not None:
            result["items"] = rest
            written["items"] = "additionalItems"
    elif "additionalItems" in result:
        del result["additionalItems"]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(result.get(exclusive), bool) and result.pop(exclusive) and bound in result:
            result[exclusive] = result.pop(bound)
    dependencies = result.pop("dependencies", None)
    if isinstance(dependencies, dict):
        for name, needs in dependencies.items():
            word = "dependentRequired" if isinstance(needs, list) else "dependentSchemas"
            result[word] = {**result.get(word, {}), name: needs}
            written[word] = "dependencies"
    return result, written


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_count(value: Any) -> bool:
    return _is_number(value) and bool(value == int(value) and value >= 0)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _types(value: Any) -> str:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or any(name not in TYPES for name in names):
        return f"must be one of {', '.join(TYPES)}, or a list of these"
    return ""


def _check(holds: Callable[[Any], bool], expected: str) -> Callable[[Any], str]:
    return lambda value: "" if holds(value) else f"must be {expected}"


_COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains"),
    *("minProperties", "maxProperties"),
)
_CHECKS: Mapping[str, Callable[[Any], str]] = {
    "type": _types,
    "enum": _check(lambda value: isinstance(value, list) and bool(value), "a list of one or more values"),
    "required": _check(_is_names, "a list of property names"),
    "pattern": _check(lambda value: isinstance(value, str), "a string"),
    "format": _check(lambda value: isinstance(value, str), "a string"),
    "uniqueItems": _check(lambda value: isinstance(value, bool), "true or false"),
    "multipleOf": _check(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "dependentRequired": _check(
        lambda value: isinstance(value, dict) and all(map(_is_names, value.values())),
        "an object whose values are lists of property names",
    ),
    **dict.fromkeys(_COUNTS, _check(_is_count, "an integer of at least 0")),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _check(_is_number, "a number")),
}
