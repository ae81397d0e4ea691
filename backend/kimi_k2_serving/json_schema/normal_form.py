"""Schemas to shapes: any mix of allOf, anyOf, oneOf, not, if, $ref and plain keywords becomes alternatives.

The alternatives of a goal never admit a value that the goal refuses; they may admit fewer (a negation that no shape
holds is dropped from a choice where another alternative is left). Where nothing would be left, the negations are
given up instead and reported: what the grammar no longer holds is validated afterwards.
Work is bounded: ALTERNATIVES per goal and type, STEPS per document, past which the schema is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema import keywords
from kimi_k2_serving.json_schema.keywords import Branch
from kimi_k2_serving.json_schema.schema import NAMED, Pointer, SchemaDocument, TooMuch
from kimi_k2_serving.json_schema.shapes import Array, Demand, Goal, Number, Object, Scopes, Shape, String, Values
from kimi_k2_serving.json_schema.validate import Judge

ALTERNATIVES = 96
STEPS = 100_000
_WAYS = 128
_Asked = tuple[Demand, Scopes]
_STRUCTURED: dict[str, Shape] = {"number": Number(), "string": String(), "array": Array(), "object": Object()}


class NormalForm:
    """The alternatives of goals of one document, remembered."""

    def __init__(self, document: SchemaDocument) -> None:
        self.document = document
        self.relaxed: dict[str, None] = {}
        # Whether some alternatives were left out: then none that is left means nothing.
        self.cut = False
        self._judge = Judge(document)
        self._known: dict[Goal, tuple[Shape, ...]] = {}
        self._open: set[Goal] = set()
        self._steps = 0

    def alternatives(self, goal: Goal) -> tuple[Shape, ...]:
        """Shapes whose union lies within the goal; none if no value meets it."""
        if goal not in self._known:
            self._open.add(goal)
            self._known[goal] = self._expand(goal)
            self._open.discard(goal)
        return self._known[goal]

    def impossible(self, goal: Goal) -> bool:
        """Whether no value meets the goal, as far as one look can tell."""
        return goal not in self._open and not self.alternatives(goal)

    def _may_be(self, kind: str, goal: Goal) -> bool:
        """False where a schema of the goal says by its type alone that it takes no such value, as most do."""
        schemas = (self.document.at(demand.pointer) for demand in goal if demand.holds)
        return all(isinstance(schema, bool) or keywords.allows(schema, kind) for schema in schemas)

    def satisfied(self, value: Json, goal: Goal) -> bool:
        return all(self._judge.satisfied(value, demand.pointer) == demand.holds for demand in goal)

    def _expand(self, goal: Goal) -> tuple[Shape, ...]:
        listed = self._listed(goal)
        if listed is not None:
            kept = tuple(value for value in listed if self.satisfied(value, goal))
            return (Values(kept),) if kept else ()
        plain: tuple[tuple[str, Json], ...] = (("null", None), ("boolean", False), ("boolean", True))
        scalars = tuple(value for kind, value in plain if self._may_be(kind, goal) and self.satisfied(value, goal))
        found: list[Shape] = [Values(scalars)] if scalars else []
        skipped: set[Pointer] = set()
        for kind, shape in _STRUCTURED.items():
            if self._may_be(kind, goal):
                found.extend(self._of_type(kind, shape, goal, skipped))
        if not found and skipped:
            for pointer in skipped:
                self.relaxed[describe(self.document, pointer)] = None
            return self._expand_without_negations(goal)
        return _distinct(found)

    def _expand_without_negations(self, goal: Goal) -> tuple[Shape, ...]:
        found: list[Shape] = []
        for kind, shape in _STRUCTURED.items():
            found.extend(each for each, _ in self._positive(kind, shape, goal))
        return _distinct(found)

    def _listed(self, goal: Goal) -> tuple[Json, ...] | None:
        """The candidates of a const or enum that stands in every branch of the goal."""
        waiting = [demand.pointer for demand in goal if demand.holds]
        seen = set(waiting)
        while waiting:
            pointer = waiting.pop()
            schema = self.document.at(pointer)
            if isinstance(schema, bool):
                continue
            if "const" in schema:
                return (schema["const"],)
            if isinstance(schema.get("enum"), list):
                return tuple(schema["enum"])  # type: ignore[arg-type]
            for branch in keywords.conjuncts(self.document, schema, pointer):
                if branch.pointer not in seen and branch.holds:
                    seen.add(branch.pointer)
                    waiting.append(branch.pointer)
        return None

    def _of_type(self, kind: str, shape: Shape, goal: Goal, skipped: set[Pointer]) -> list[Shape]:
        found: list[Shape] = []
        for positive, negations in self._positive(kind, shape, goal):
            shapes = [positive]
            # Any one way to break a schema is sound: where there are many to break, few ways of each are kept.
            most = max(1, min(ALTERNATIVES, _WAYS // max(len(negations), 1)))
            for pointer in negations:
                broken = [kept for each in shapes for kept in self._negative(kind, each, pointer, skipped)]
                self.cut = self.cut or len(broken) > most
                shapes = broken[:most]
            found.extend(self._filtered(each, goal) for each in shapes)
            if len(found) >= ALTERNATIVES:
                self.cut = True
                break
        return [shape for shape in found if shape != Values(())]

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS:
            raise TooMuch("combines too many alternatives; simplify it", field=self.document.path)

    def _filtered(self, shape: Shape, goal: Goal) -> Shape:
        """A value listed inside one branch has to meet the whole goal."""
        if isinstance(shape, Values):
            return Values(tuple(value for value in shape.values if self.satisfied(value, goal)))
        return shape

    def _positive(self, kind: str, shape: Shape, goal: Goal) -> Iterator[tuple[Shape, tuple[Pointer, ...]]]:
        """Per branch of the choices: the shape of all that holds, and the places that are not to hold."""
        order = sorted(goal, key=lambda demand: (not demand.holds, str(demand.pointer)))
        stack: list[tuple[Shape, tuple[_Asked, ...], tuple[Pointer, ...], frozenset[_Asked]]] = [
            (shape, tuple((demand, frozenset()) for demand in order), (), frozenset())
        ]
        count = 0
        while stack and count < ALTERNATIVES:
            self._step()
            shape, agenda, negations, seen = stack.pop()
            if not agenda:
                count += 1
                yield shape, negations
                continue
            (demand, scopes), rest = agenda[0], agenda[1:]
            if agenda[0] in seen:
                stack.append((shape, rest, negations, seen))
            elif not demand.holds:
                negations = negations if demand.pointer in negations else (*negations, demand.pointer)
                stack.append((shape, rest, negations, seen | {agenda[0]}))
            else:
                branches = self._holding(kind, shape, demand.pointer, scopes)
                inside = self._inside(demand.pointer, scopes)
                # Reversed: the first alternative of the schema comes first.
                for branch in reversed(branches):
                    if len(branches) + len(stack) > 1 and self._dead(branch.shape):
                        continue
                    asked = tuple((each, inside) for each in branch.demands)
                    stack.append((branch.shape, (*asked, *rest), negations, seen | {agenda[0]}))
        self.cut = self.cut or bool(stack)

    def _dead(self, shape: Shape) -> bool:
        """Whether a required property has no value left: such a branch is left before it forks again."""
        return isinstance(shape, Object) and any(
            self.impossible(goal_of(shape, name)) for name in shape.required if name in shape.declared
        )

    def _inside(self, pointer: Pointer, scopes: Scopes) -> Scopes:
        """What the schemas that this one applies to the same value evaluate for."""
        schema = self.document.at(pointer)
        return scopes if isinstance(schema, bool) or not evaluates(schema) else scopes | {pointer}

    def _holding(self, kind: str, shape: Shape, pointer: Pointer, scopes: Scopes) -> list[Branch]:
        schema = self.document.at(pointer)
        if isinstance(schema, bool):
            return [Branch(shape)] if schema else []
        listed = (schema["const"],) if "const" in schema else schema.get("enum")
        if isinstance(listed, list | tuple):
            values = tuple(value for value in listed if keywords.is_kind(value, kind))
            shape = Values(tuple(v for v in values if not isinstance(shape, Values) or v in shape.values))
            return [Branch(shape)] if shape.values else []
        narrowed = shape if isinstance(shape, Values) else keywords.narrow(shape, schema, pointer, scopes)
        if narrowed is None or not keywords.allows(schema, kind):
            return []
        branches = keywords.choices(self.document, schema, pointer, narrowed, whole=bool(scopes) or evaluates(schema))
        self.cut = self.cut or len(branches) >= keywords.BRANCHES
        return branches

    def _negative(self, kind: str, shape: Shape, pointer: Pointer, skipped: set[Pointer]) -> list[Shape]:
        """The shape narrowed in each way that breaks the schema at `pointer`."""
        self._step()
        if isinstance(shape, Values):
            return [shape]
        schema = self.document.at(pointer)
        if isinstance(schema, bool):
            return [] if schema else [shape]
        if not keywords.allows(schema, kind):
            return [shape]
        broken = list(keywords.breaks(self.document, kind, shape, schema, pointer))
        if keywords.unbroken(schema, kind):
            skipped.add(pointer)
        for way in broken:
            if self._already(way, shape):
                return [way.shape if way.clash is None else shape]
        found: list[Shape] = []
        for way in broken:
            found.extend(self._narrowed_by(kind, way, skipped))
        self.cut = self.cut or len(found) > ALTERNATIVES
        return found[:ALTERNATIVES]

    def _already(self, way: Branch, shape: Shape) -> bool:
        """Whether a way of breaking a schema is given by the shape as it is, but for a name that it never has."""
        if way.demands:
            return False
        if way.shape == shape:
            return True
        if isinstance(shape, Object) and isinstance(way.shape, Object):
            new = way.shape.forbidden - shape.forbidden
            closed = not any(part.open or part.patterns for part in shape.parts)
            only = way.shape == replace(shape, forbidden=way.shape.forbidden)
            if only and new and closed and not new.intersection(shape.declared):
                return True
            if way.clash is not None and way.clash[0] in shape.required:
                name, against = way.clash
                return self.impossible(goal_of(shape, name) | against)
        return False

    def _narrowed_by(self, kind: str, way: Branch, skipped: set[Pointer]) -> list[Shape]:
        """A way of breaking may itself demand schemas to hold or not to hold."""
        if not way.demands:
            return [way.shape]
        found: list[Shape] = []
        for shape, negations in self._positive(kind, way.shape, frozenset(way.demands)):
            shapes = [shape]
            for pointer in negations:
                shapes = [kept for each in shapes for kept in self._negative(kind, each, pointer, skipped)]
            found.extend(shapes)
        return found


def evaluates(schema: keywords.Members) -> bool:
    """Whether it matters to a schema what else was said of a member."""
    return "unevaluatedProperties" in schema or "unevaluatedItems" in schema


def goal_of(shape: Object, name: str) -> Goal:
    """What the property `name` of an object has to meet, patterns left aside."""
    merged: Goal = frozenset()
    for part in shape.parts:
        merged |= dict(part.names).get(name, part.extra or frozenset())
    return merged


def describe(document: SchemaDocument, pointer: Pointer) -> str:
    """`path: keyword` of a place, for reports; of a schema that has a name, and is negated elsewhere, `not`."""
    steps = list(pointer)
    while steps and isinstance(steps[-1], int):
        steps.pop()
    at = 0
    while at < len(steps):
        at += 2 if steps[at] in NAMED or (at + 1 < len(steps) and isinstance(steps[at + 1], int)) else 1
        if at == len(steps) and steps[-2:-1] and steps[at - 2] in NAMED and pointer[-1] == steps[-1]:
            return f"{document.where(pointer)}: not"
    keyword = steps.pop() if steps else "schema"
    return f"{document.where(tuple(steps))}: {keyword}"


def _distinct(shapes: list[Shape]) -> tuple[Shape, ...]:
    """Without repetitions. Listed values are compared as JSON text: 1 and true are equal in Python."""
    keys = [json.dumps(shape.values) if isinstance(shape, Values) else shape for shape in shapes]
    return tuple(dict(zip(keys, shapes, strict=True)).values())
