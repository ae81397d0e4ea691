"""From schemas to shapes: any mix of allOf, anyOf, oneOf, not, if, $ref and plain keywords becomes alternatives.

The alternatives of a goal never admit a value that the goal refuses. They may admit fewer values: an alternative is
dropped if no shape can express a negation in it and another alternative remains. If none would remain, the negations
are ignored and reported as relaxed, and the finished value is validated.
Work is bounded: ALTERNATIVES per goal and type are kept; after STEPS steps for one document the schema is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema import keywords
from kimi_k2_serving.json_schema.keywords import Branch
from kimi_k2_serving.json_schema.schema import NAMED, Pointer, SchemaDocument, TooMuch
from kimi_k2_serving.json_schema.shapes import Array, Demand, Goal, Number, Object, Scopes, Shape, String, Values
from kimi_k2_serving.json_schema.validate import Judge

ALTERNATIVES = 96
STEPS = 100_000
_MAX_VIOLATIONS = 128
_ScopedDemand = tuple[Demand, Scopes]
_STRUCTURED: dict[str, Shape] = {"number": Number(), "string": String(), "array": Array(), "object": Object()}


class NormalForm:
    """The alternatives of every goal of one document; each goal is expanded once."""

    def __init__(self, document: SchemaDocument) -> None:
        self.document = document
        self.relaxed: dict[str, None] = {}
        # True once alternatives were left out: no alternative left does not mean, then, that no value satisfies a goal.
        self.cut = False
        self._judge = Judge(document)
        self._known: dict[Goal, tuple[Shape, ...]] = {}
        self._open: set[Goal] = set()
        self._steps = 0

    def alternatives(self, goal: Goal) -> tuple[Shape, ...]:
        """Shapes that admit only values which meet the goal; an empty tuple if no value does."""
        if goal not in self._known:
            self._open.add(goal)
            self._known[goal] = self._expand(goal)
            self._open.discard(goal)
        return self._known[goal]

    def impossible(self, goal: Goal) -> bool:
        """Whether no value meets the goal; False for a goal that is still being expanded, as in a recursive schema."""
        return goal not in self._open and not self.alternatives(goal)

    def _may_be(self, kind: str, goal: Goal) -> bool:
        """False if the `type` of a schema in the goal excludes this kind. Cheap, and enough for most schemas."""
        schemas = (self.document.at(demand.pointer) for demand in goal if demand.holds)
        return all(isinstance(schema, bool) or keywords.allows(schema, kind) for schema in schemas)

    def satisfied(self, value: Json, goal: Goal) -> bool:
        for demand in goal:
            if self._judge.satisfied(value, demand.pointer, narrow=demand.holds) != demand.holds:
                return False
            if self._judge.undecided:
                self.relaxed[f"{self.document.where(demand.pointer)}: pattern"] = None
        return True

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
        """The values of a const or enum that every branch of the goal must satisfy; None if there is none."""
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
            # To satisfy `not S`, one violation of S is enough. With many negations only few violations of each are
            # kept, or their product would grow without bound.
            limit = max(1, min(ALTERNATIVES, _MAX_VIOLATIONS // max(len(negations), 1)))
            for pointer in negations:
                broken = [kept for each in shapes for kept in self._negative(kind, each, pointer, skipped)]
                self.cut = self.cut or len(broken) > limit
                shapes = broken[:limit]
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
        """Keep those values of an enumeration that meet the whole goal, not only the branch that lists them."""
        if isinstance(shape, Values):
            return Values(tuple(value for value in shape.values if self.satisfied(value, goal)))
        return shape

    def _positive(self, kind: str, shape: Shape, goal: Goal) -> Iterator[tuple[Shape, tuple[Pointer, ...]]]:
        """For each combination of choices: the shape of all that must hold, and the places that must not hold."""
        order = sorted(goal, key=lambda demand: (not demand.holds, str(demand.pointer)))
        stack: list[tuple[Shape, tuple[_ScopedDemand, ...], tuple[Pointer, ...], frozenset[_ScopedDemand]]] = [
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
                # Pushed in reverse, so that the schema's first alternative is popped first.
                for branch in reversed(branches):
                    if len(branches) + len(stack) > 1 and self._dead(branch.shape):
                        continue
                    opened = tuple((each, inside) for each in branch.demands)
                    stack.append((branch.shape, (*opened, *rest), negations, seen | {agenda[0]}))
        self.cut = self.cut or bool(stack)

    def _dead(self, shape: Shape) -> bool:
        """Whether a required property has no possible value. Such a branch is dropped before it forks again."""
        if not isinstance(shape, Object) or not shape.required:
            return False
        declared = frozenset(shape.declared)
        return any(map(self.impossible, goals_of(shape, filter(declared.__contains__, shape.required))))

    def _inside(self, pointer: Pointer, scopes: Scopes) -> Scopes:
        """The scopes of the schemas that the one at `pointer` applies to the same value."""
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
        """The shape narrowed so that it breaks the schema at `pointer`, once for each way to break it."""
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
        """Whether every value of `shape` breaks the schema in this way already, without being narrowed."""
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
                (goal,) = goals_of(shape, (name,))
                return self.impossible(goal | against)
        return False

    def _narrowed_by(self, kind: str, way: Branch, skipped: set[Pointer]) -> list[Shape]:
        """The shape of a way of breaking, narrowed by the further schemas that must or must not hold for it."""
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
    """Whether the schema has an unevaluated* keyword, so that it matters which other schemas describe a member."""
    return "unevaluatedProperties" in schema or "unevaluatedItems" in schema


def goals_of(shape: Object, names: Iterable[str]) -> Iterator[Goal]:
    """The goal of each of these properties of an object, without regard to patternProperties."""
    parts = [(dict(part.names), part.extra or frozenset()) for part in shape.parts]
    for name in names:
        yield frozenset[Demand]().union(*(known.get(name, extra) for known, extra in parts))


def describe(document: SchemaDocument, pointer: Pointer) -> str:
    """`path: keyword` of a place, for reports. For a schema under a name, which is negated elsewhere, it is `not`."""
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
    """The shapes without repetitions. Values are compared as JSON text, because 1 and true are equal in Python."""
    keys = [json.dumps(shape.values) if isinstance(shape, Values) else shape for shape in shapes]
    return tuple(dict(zip(keys, shapes, strict=True)).values())
