"""The shapes that a normalised schema consists of: one class per JSON type, each a plain conjunction of constraints.

A Demand says that the schema at one place of the document must hold, or must not. A Goal is a set of demands that must
all be met. Sub-schemas stay goals instead of being expanded, so a recursive schema has finitely many of them. Methods
return the narrowed shape, or None if no value is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema.schema import Pointer


@dataclass(frozen=True, slots=True)
class Demand:
    """The schema at `pointer` must be satisfied, or must not be if `holds` is false."""

    pointer: Pointer
    holds: bool = True


Goal = frozenset[Demand]


@dataclass(frozen=True, slots=True)
class Values:
    """One of these JSON values."""

    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class RangeEnd:
    """One end of a range."""

    value: Fraction
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """`integer`: None allows every number, True only integers, False only numbers with a fractional part."""

    integer: bool | None = None
    low: RangeEnd | None = None
    high: RangeEnd | None = None
    multiples: frozenset[Fraction] = frozenset()
    not_multiples: frozenset[Fraction] = frozenset()
    excluded: frozenset[Fraction] = frozenset()

    def kind(self, integer: bool) -> Number | None:
        return replace(self, integer=integer) if self.integer in (None, integer) else None

    def above(self, limit: RangeEnd) -> Number | None:
        if self.low is None or (limit.value, limit.exclusive) > (self.low.value, self.low.exclusive):
            return replace(self, low=limit)._checked()
        return self

    def below(self, limit: RangeEnd) -> Number | None:
        if self.high is None or (limit.value, not limit.exclusive) < (self.high.value, not self.high.exclusive):
            return replace(self, high=limit)._checked()
        return self

    def _checked(self) -> Number | None:
        if self.low is None or self.high is None or self.low.value < self.high.value:
            return self
        touching = self.low.value == self.high.value and not (self.low.exclusive or self.high.exclusive)
        return self if touching else None


@dataclass(frozen=True, slots=True)
class String:
    """`patterns` are pairs (pattern, whether it must match or must not); lengths are in code points."""

    least: int = 0
    most: int | None = None
    patterns: frozenset[tuple[str, bool]] = frozenset()
    formats: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def sized(self, least: int = 0, most: int | None = None) -> String | None:
        size = _size(self.least, self.most, least, most)
        return replace(self, least=size[0], most=size[1]) if size else None


Scopes = frozenset[Pointer]
"""Pointers of the schemas with an `unevaluated*` keyword that enclose a part and apply to the same value: the members
that the part describes count as evaluated for them.

A part that is there to break another schema, or that stands inside a negation, has no scopes.
"""


@dataclass(frozen=True, slots=True)
class Unevaluated:
    """The goal of those members that nothing inside the schema `owner` evaluates."""

    owner: Pointer
    goal: Goal
    scopes: Scopes


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """What one schema says about elements: a goal for each leading one, and one for the rest (None: no more elements).

    `open`: `items` was given explicitly.
    """

    prefix: tuple[Goal, ...] = ()
    rest: Goal | None = frozenset()
    open: bool = False
    scopes: Scopes = frozenset()

    def at(self, index: int) -> Goal | None:
        return self.prefix[index] if index < len(self.prefix) else self.rest


@dataclass(frozen=True, slots=True)
class Contains:
    goal: Goal
    negated: Goal
    least: int = 1
    most: int | None = None
    scopes: Scopes = frozenset()


@dataclass(frozen=True, slots=True)
class Array:
    parts: tuple[ArrayPart, ...] = ()
    least: int = 0
    most: int | None = None
    unique: bool = False
    contains: tuple[Contains, ...] = ()
    unevaluated: tuple[Unevaluated, ...] = ()

    def sized(self, least: int = 0, most: int | None = None) -> Array | None:
        size = _size(self.least, self.most, least, most)
        return replace(self, least=size[0], most=size[1]) if size else None

    def at(self, index: int, matched: frozenset[Contains] = frozenset()) -> Goal | None:
        """The goal of element `index` if it counts for the `contains` in `matched`; None if it may not exist."""
        goal = _meet(part.at(index) for part in self.parts)
        if goal is None:
            return None
        seen = [part.scopes for part in self.parts if part.open or index < len(part.prefix)]
        return goal | left_over(self.unevaluated, [*seen, *(each.scopes for each in matched)])

    @property
    def prefix(self) -> int:
        return max((len(part.prefix) for part in self.parts), default=0)


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """What one schema says about members: goals by name, goals by pattern, and one for any other name.

    `extra` None: other names are forbidden. `open`: `additionalProperties` was given explicitly and is not false.
    """

    names: tuple[tuple[str, Goal], ...] = ()
    patterns: tuple[tuple[str, Goal], ...] = ()
    extra: Goal | None = frozenset()
    open: bool = False
    scopes: Scopes = frozenset()


@dataclass(frozen=True, slots=True)
class Object:
    parts: tuple[ObjectPart, ...] = ()
    required: tuple[str, ...] = ()
    forbidden: frozenset[str] = frozenset()
    least: int = 0
    most: int | None = None
    keys: Goal = frozenset()
    unevaluated: tuple[Unevaluated, ...] = ()

    def sized(self, least: int = 0, most: int | None = None) -> Object | None:
        size = _size(self.least, self.most, least, most)
        return replace(self, least=size[0], most=size[1]) if size else None

    def require(self, names: tuple[str, ...]) -> Object | None:
        new = tuple(name for name in dict.fromkeys(names) if name not in self.required)
        if self.forbidden.intersection(names):
            return None
        return replace(self, required=self.required + new)

    def forbid(self, name: str) -> Object | None:
        return None if name in self.required else replace(self, forbidden=self.forbidden | {name})

    @property
    def declared(self) -> tuple[str, ...]:
        """The names under `properties`, in the order of the schemas."""
        return tuple(dict.fromkeys(name for part in self.parts for name, _ in part.names))


Shape = Values | Number | String | Array | Object


def left_over(unevaluated: tuple[Unevaluated, ...], seen: Iterable[Scopes]) -> Goal:
    """The unevaluated* goals of a member that is described by parts with the scopes `seen`, and by no others."""
    known = frozenset[Pointer]().union(*seen)
    merged: Goal = frozenset()
    for each in unevaluated:
        # An inner unevaluated* keyword evaluates every remaining member, so nothing is left for an outer one.
        if each.owner not in known and not any(each.owner in inner.scopes for inner in unevaluated):
            merged |= each.goal
    return merged


def _meet(goals: Iterable[Goal | None]) -> Goal | None:
    merged: Goal = frozenset()
    for goal in goals:
        if goal is None:
            return None
        merged |= goal
    return merged


def _size(least: int, most: int | None, new_least: int, new_most: int | None) -> tuple[int, int | None] | None:
    low = max(least, new_least)
    high = most if new_most is None else new_most if most is None else min(most, new_most)
    return None if high is not None and high < low else (low, high)
