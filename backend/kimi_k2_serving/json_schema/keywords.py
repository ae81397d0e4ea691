"""What each keyword does to a shape: how it narrows it, which choices it opens, and how a value can violate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema.schema import Pointer, SchemaDocument
from kimi_k2_serving.json_schema.shapes import (
    Array,
    ArrayPart,
    Contains,
    Demand,
    Goal,
    Number,
    Object,
    ObjectPart,
    RangeEnd,
    Scopes,
    Shape,
    String,
    Unevaluated,
    Values,
)
from kimi_k2_serving.json_schema.validate import exactly

Members = Mapping[str, Any]
BRANCHES = 512


@dataclass(frozen=True, slots=True)
class Branch:
    """A shape, and further schemas that must hold or must not.

    `clash`, of a way to break a schema: a property and a goal. If the property is required and no value of it meets
    the goal, every value of the shape breaks the schema.
    """

    shape: Shape
    demands: tuple[Demand, ...] = ()
    clash: tuple[str, Goal] | None = None


def is_kind(value: Json, kind: str) -> bool:
    match value:
        case bool() | None:
            return False
        case int() | float():
            return kind == "number"
        case str():
            return kind == "string"
        case list():
            return kind == "array"
        case _:
            return kind == "object"


def allows(schema: Members, kind: str) -> bool:
    """Whether the schema's `type` allows values of this kind."""
    names = schema.get("type")
    if names is None:
        return True
    names = [names] if isinstance(names, str) else names
    return kind in names or (kind == "number" and "integer" in names)


def conjuncts(document: SchemaDocument, schema: Members, pointer: Pointer) -> list[Demand]:
    """The demands of `$ref`, `allOf` and `not`, which hold whenever this schema does."""
    found = []
    if "$ref" in schema:
        found.append(Demand(document.resolve(schema["$ref"])))
    found.extend(Demand((*pointer, "allOf", i)) for i in range(len(schema.get("allOf", ()))))
    if "not" in schema:
        found.append(Demand((*pointer, "not"), False))
    return found


def choices(
    document: SchemaDocument, schema: Members, pointer: Pointer, shape: Shape, *, whole: bool = False
) -> list[Branch]:
    """Ways to satisfy the applicators of a schema: all of them, or the first BRANCHES.

    `whole`: an `if` without `then` and `else` opens a choice, too, because the members that it describes count as
    evaluated.
    """
    branches = [Branch(shape, tuple(conjuncts(document, schema, pointer)))]
    for options in _options(schema, pointer, whole):
        branches = [replace(b, demands=(*b.demands, *option)) for b in branches for option in options][:BRANCHES]
    for name, needed in schema.get("dependentRequired", {}).items():
        branches = [kept for b in branches for kept in _dependent(b, name, tuple(needed), ())][:BRANCHES]
    for name in schema.get("dependentSchemas", {}):
        demand = Demand((*pointer, "dependentSchemas", name))
        branches = [kept for b in branches for kept in _dependent(b, name, (), (demand,))][:BRANCHES]
    return branches


def _options(schema: Members, pointer: Pointer, whole: bool) -> Iterator[list[tuple[Demand, ...]]]:
    if "anyOf" in schema:
        yield [(Demand((*pointer, "anyOf", i)),) for i in range(len(schema["anyOf"]))]
    if "oneOf" in schema:
        places = [(*pointer, "oneOf", i) for i in range(len(schema["oneOf"]))]
        yield [(Demand(one), *(Demand(other, False) for other in places if other != one)) for one in places]
    if "if" in schema and (whole or "then" in schema or "else" in schema):
        condition = (*pointer, "if")
        then = (Demand((*pointer, "then")),) if "then" in schema else ()
        otherwise = (Demand((*pointer, "else")),) if "else" in schema else ()
        yield [(Demand(condition), *then), (Demand(condition, False), *otherwise)]


def _dependent(branch: Branch, name: str, needed: tuple[str, ...], demands: tuple[Demand, ...]) -> Iterator[Branch]:
    if not isinstance(branch.shape, Object):
        yield branch
        return
    present = branch.shape.require((name, *needed))
    absent = branch.shape.forbid(name)
    if present is not None:
        yield replace(branch, shape=present, demands=(*branch.demands, *demands))
    if absent is not None:
        yield replace(branch, shape=absent)


def narrow(shape: Shape, schema: Members, pointer: Pointer, scopes: Scopes) -> Shape | None:
    """The shape, narrowed by the schema's plain keywords for its type; None if no value is left."""
    match shape:
        case Number():
            return _number(shape, schema)
        case String():
            return _string(shape, schema)
        case Array():
            return _array(shape, schema, pointer, scopes)
        case Object():
            return _object(shape, schema, pointer, scopes)
        case Values():
            return shape


def _number(shape: Number, schema: Members) -> Number | None:
    names = schema.get("type")
    narrowed: Number | None = shape
    if names is not None and "number" not in ([names] if isinstance(names, str) else names):
        narrowed = shape.kind(True)
    for keyword, value in schema.items():
        if narrowed is None:
            return None
        match keyword:
            case "minimum" | "exclusiveMinimum":
                narrowed = narrowed.above(RangeEnd(exactly(value), keyword == "exclusiveMinimum"))
            case "maximum" | "exclusiveMaximum":
                narrowed = narrowed.below(RangeEnd(exactly(value), keyword == "exclusiveMaximum"))
            case "multipleOf":
                narrowed = replace(narrowed, multiples=narrowed.multiples | {exactly(value)})
    return narrowed


def _string(shape: String, schema: Members) -> String | None:
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    narrowed = shape.sized(least, None if most is None else int(most))
    if narrowed is None:
        return None
    if "pattern" in schema:
        narrowed = replace(narrowed, patterns=narrowed.patterns | {(schema["pattern"], True)})
    if "format" in schema:
        narrowed = replace(narrowed, formats=narrowed.formats | {schema["format"]})
    return narrowed


def _array(shape: Array, schema: Members, pointer: Pointer, scopes: Scopes) -> Array | None:
    most = schema.get("maxItems")
    narrowed = shape.sized(int(schema.get("minItems", 0)), None if most is None else int(most))
    if narrowed is None:
        return None
    inside = inner_scopes("unevaluatedItems", schema, pointer, scopes)
    if "prefixItems" in schema or "items" in schema:
        prefix = tuple(_goal(pointer, "prefixItems", i) for i in range(len(schema.get("prefixItems", ()))))
        part = ArrayPart(prefix, _rest(schema, "items", pointer), "items" in schema, inside)
        narrowed = replace(narrowed, parts=(*narrowed.parts, part))
    if "unevaluatedItems" in schema:
        own = Unevaluated(pointer, _goal(pointer, "unevaluatedItems"), scopes)
        narrowed = replace(narrowed, unevaluated=(*narrowed.unevaluated, own))
    if schema.get("uniqueItems"):
        narrowed = replace(narrowed, unique=True)
    if "contains" in schema:
        at_most = schema.get("maxContains")
        wanted = Contains(
            _goal(pointer, "contains"),
            frozenset({Demand((*pointer, "contains"), False)}),
            int(schema.get("minContains", 1)),
            None if at_most is None else int(at_most),
            inside,
        )
        narrowed = replace(narrowed, contains=(*narrowed.contains, wanted))
    return narrowed


def _object(shape: Object, schema: Members, pointer: Pointer, scopes: Scopes) -> Object | None:
    most = schema.get("maxProperties")
    narrowed = shape.sized(int(schema.get("minProperties", 0)), None if most is None else int(most))
    narrowed = narrowed and narrowed.require(tuple(schema.get("required", ())))
    if narrowed is None:
        return None
    inside = inner_scopes("unevaluatedProperties", schema, pointer, scopes)
    if "properties" in schema or "patternProperties" in schema or "additionalProperties" in schema:
        part = ObjectPart(
            tuple((name, _goal(pointer, "properties", name)) for name in schema.get("properties", {})),
            tuple((name, _goal(pointer, "patternProperties", name)) for name in schema.get("patternProperties", {})),
            _rest(schema, "additionalProperties", pointer),
            schema.get("additionalProperties", False) is not False,
            inside,
        )
        narrowed = replace(narrowed, parts=(*narrowed.parts, part))
    if "propertyNames" in schema:
        narrowed = replace(narrowed, keys=narrowed.keys | _goal(pointer, "propertyNames"))
    if "unevaluatedProperties" in schema:
        own = Unevaluated(pointer, _goal(pointer, "unevaluatedProperties"), scopes)
        narrowed = replace(narrowed, unevaluated=(*narrowed.unevaluated, own))
    return narrowed


def inner_scopes(keyword: str, schema: Members, pointer: Pointer, scopes: Scopes) -> Scopes:
    return scopes | {pointer} if keyword in schema else scopes


def _rest(schema: Members, keyword: str, pointer: Pointer) -> Goal | None:
    value = schema.get(keyword, True)
    if isinstance(value, bool):
        return frozenset() if value else None
    return _goal(pointer, keyword)


def _goal(pointer: Pointer, *steps: str | int) -> Goal:
    return frozenset({Demand((*pointer, *steps))})


# Keywords whose negation no shape can express. If a schema has one of them, `breaks` may miss ways to break it.
_UNBREAKABLE: Mapping[str, frozenset[str]] = {
    "number": frozenset(),
    "string": frozenset(),
    "array": frozenset(("uniqueItems", "unevaluatedItems", "minContains", "maxContains")),
    "object": frozenset(("propertyNames", "patternProperties", "unevaluatedProperties", "dependentSchemas")),
}


def unbroken(schema: Members, kind: str) -> bool:
    """Whether the schema has a keyword that `breaks` leaves out, or covers only in part."""
    return any(word in schema for word in _UNBREAKABLE[kind]) or "additionalProperties" in schema or "oneOf" in schema


def breaks(document: SchemaDocument, kind: str, shape: Shape, schema: Members, pointer: Pointer) -> Iterator[Branch]:
    """Ways to break a schema, each by violating one keyword. Sound, but not complete: see `unbroken`."""
    for demand in conjuncts(document, schema, pointer):
        yield Branch(shape, (replace(demand, holds=not demand.holds),))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            yield Branch(shape, tuple(Demand((*pointer, word, i), False) for i in range(len(schema[word]))))
    if "if" in schema:
        for word, met in (("then", True), ("else", False)):
            if word in schema:
                yield Branch(shape, (Demand((*pointer, "if"), met), Demand((*pointer, word), False)))
    match shape:
        case Number():
            yield from _break_number(shape, schema)
        case String():
            yield from _break_string(shape, schema)
        case Array():
            yield from _break_array(shape, schema, pointer)
        case Object():
            yield from _break_object(shape, schema, pointer)


def _branch(shape: Shape | None) -> Iterator[Branch]:
    if shape is not None:
        yield Branch(shape)


def _listed(schema: Members) -> list[Json]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum", ()))


def _break_number(shape: Number, schema: Members) -> Iterator[Branch]:
    names = schema.get("type")
    if names is not None and "number" not in ([names] if isinstance(names, str) else names):
        yield from _branch(shape.kind(False))
    if "const" in schema or "enum" in schema:
        numbers = frozenset(exactly(value) for value in _listed(schema) if is_kind(value, "number"))
        yield from _branch(replace(shape, excluded=shape.excluded | numbers))
    for keyword in ("minimum", "exclusiveMinimum"):
        if keyword in schema:
            yield from _branch(shape.below(RangeEnd(exactly(schema[keyword]), keyword == "minimum")))
    for keyword in ("maximum", "exclusiveMaximum"):
        if keyword in schema:
            yield from _branch(shape.above(RangeEnd(exactly(schema[keyword]), keyword == "maximum")))
    if "multipleOf" in schema:
        yield Branch(replace(shape, not_multiples=shape.not_multiples | {exactly(schema["multipleOf"])}))


def _break_string(shape: String, schema: Members) -> Iterator[Branch]:
    if "const" in schema or "enum" in schema:
        texts = frozenset(value for value in _listed(schema) if isinstance(value, str))
        yield from _branch(replace(shape, excluded=shape.excluded | texts))
    if schema.get("minLength", 0) > 0:
        yield from _branch(shape.sized(0, int(schema["minLength"]) - 1))
    if "maxLength" in schema:
        yield from _branch(shape.sized(int(schema["maxLength"]) + 1))
    if "pattern" in schema:
        yield Branch(replace(shape, patterns=shape.patterns | {(schema["pattern"], False)}))


def _break_array(shape: Array, schema: Members, pointer: Pointer) -> Iterator[Branch]:
    if "const" in schema or "enum" in schema:
        longest = max((len(value) for value in _listed(schema) if isinstance(value, list)), default=-1)
        yield from _branch(shape.sized(longest + 1))
        return
    if schema.get("minItems", 0) > 0:
        yield from _branch(shape.sized(0, int(schema["minItems"]) - 1))
    if "maxItems" in schema:
        yield from _branch(shape.sized(int(schema["maxItems"]) + 1))
    leading = schema.get("prefixItems", ())
    for i in range(len(leading)):
        goals = (*(frozenset[Demand]() for _ in range(i)), frozenset({Demand((*pointer, "prefixItems", i), False)}))
        longer = shape.sized(i + 1)
        if longer is not None:
            yield Branch(replace(longer, parts=(*shape.parts, ArrayPart(goals))))
    if "items" in schema and not leading:
        against = Demand((*pointer, "items"), False)
        wanted = Contains(frozenset({against}), frozenset({replace(against, holds=True)}))
        yield Branch(replace(shape, contains=(*shape.contains, wanted)))
    if "contains" in schema and schema.get("minContains", 1) > 0:
        rest = frozenset({Demand((*pointer, "contains"), False)})
        yield Branch(replace(shape, parts=(*shape.parts, ArrayPart((), rest))))


def _break_object(shape: Object, schema: Members, pointer: Pointer) -> Iterator[Branch]:
    if "const" in schema or "enum" in schema:
        largest = max((len(value) for value in _listed(schema) if isinstance(value, dict)), default=-1)
        yield from _branch(shape.sized(largest + 1))
        return
    for name in schema.get("required", ()):
        yield from _branch(shape.forbid(name))
    for name in schema.get("properties", {}):
        with_name = shape.require((name,))
        if with_name is not None:
            against = Demand((*pointer, "properties", name), False)
            part = ObjectPart(((name, frozenset({against})),))
            changed = replace(with_name, parts=(*shape.parts, part))
            yield Branch(changed, clash=(name, frozenset({replace(against, holds=True)})))
    if schema.get("minProperties", 0) > 0:
        yield from _branch(shape.sized(0, int(schema["minProperties"]) - 1))
    if "maxProperties" in schema:
        yield from _branch(shape.sized(int(schema["maxProperties"]) + 1))
    for name, needed in schema.get("dependentRequired", {}).items():
        with_name = shape.require((name,))
        for other in needed:
            yield from _branch(with_name.forbid(other) if with_name else None)
    if "additionalProperties" in schema and not schema.get("patternProperties"):
        yield from _break_extra(shape, schema, pointer)


def _break_extra(shape: Object, schema: Members, pointer: Pointer) -> Iterator[Branch]:
    """Violate `additionalProperties` with a property that `shape` declares and `schema` does not."""
    for name in shape.declared:
        if name not in schema.get("properties", {}):
            with_name = shape.require((name,))
            if with_name is None or schema["additionalProperties"] is True:
                continue
            against = Demand((*pointer, "additionalProperties"), False)
            part = ObjectPart(((name, frozenset({against})),))
            yield Branch(
                replace(with_name, parts=(*shape.parts, part)), clash=(name, frozenset({replace(against, holds=True)}))
            )
