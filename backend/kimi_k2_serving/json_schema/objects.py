"""Objects as grammar rules.

Properties come in the order in which the schema declares them, each at most once; undeclared names come last. A
property that several schemas describe has to meet all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from kimi_k2_serving.json_schema import ebnf
from kimi_k2_serving.json_schema.containers import COMMA, STATES, WS, Containers, following
from kimi_k2_serving.json_schema.ebnf import EMPTY, NOTHING, Expression, Ref, Seq, Terminal
from kimi_k2_serving.json_schema.shapes import Goal, Object, ObjectPart, Scopes, String, Values, left_over
from kimi_k2_serving.json_schema.validate import found

# With up to this many patternProperties, each combination of them that a name may match is written.
_OVERLAPPING = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    """`text`: name, colon and value. `needed`: the property is required."""

    text: Expression
    needed: bool


class Objects(Containers):
    """Writes objects."""

    def object(self, shape: Object, parent: Goal, level: int) -> Expression:
        entries: list[_Entry] = []
        names = tuple(dict.fromkeys((*shape.declared, *shape.required)))
        for name in sorted(names) if self.sort_keys else names:
            goal = self._property(shape, name)
            needed = name in shape.required
            if goal is None and needed:
                return NOTHING
            if goal is not None:
                key = self.key(name)
                entries.append(_Entry(Seq((key, WS, self.goal(goal, parent, level))), needed))
        extra = self._extra(shape, frozenset(names), parent, level)
        members = _Members(self, entries, extra, shape, self._fresh())
        if not members.countable:
            # Two undeclared names may be equal, so the grammar cannot count them towards minProperties.
            self.relax(parent, "minProperties")
        if members.size > STATES:
            for keyword in ("minProperties", "maxProperties"):
                self.relax(parent, keyword)
            members = _Members(self, entries, extra, replace(shape, least=0, most=None), self._fresh())
        return members.expression()

    def _property(self, shape: Object, name: str) -> Goal | None:
        """The goal of a declared or required property; None if it is forbidden."""
        if name in shape.forbidden or not self.form.satisfied(name, shape.keys):
            return None

        def goals_in(part: ObjectPart) -> list[Goal]:
            goals = [goal for listed, goal in part.names if listed == name]
            return goals + [goal for pattern, goal in part.patterns if found(pattern, name) is not False]

        return _met(shape, goals_in)

    def _extra(self, shape: Object, names: frozenset[str], parent: Goal, level: int) -> Expression:
        """One member with an undeclared name; NOTHING if the object may have none."""
        patterns = tuple(dict.fromkeys(pattern for part in shape.parts for pattern, _ in part.patterns))
        known = names | shape.forbidden
        options: list[Expression] = []
        for matched in _matches(patterns):
            goal = _undeclared(shape, matched)
            if goal is not None:
                key = String(patterns=frozenset((each, each in matched) for each in patterns), excluded=known)
                options.append(self._member(shape, key, goal, parent, level))
        explicit = any(part.open for part in shape.parts) or any(
            not self.form.impossible(each.goal) for each in shape.unevaluated
        )
        plain = _undeclared(shape, ())
        # An empty `properties` means that there are no properties, unless minProperties demands some.
        declares = shape.declared or patterns or (shape.parts and not shape.least)
        if plain is not None and (explicit or not declares):
            key = String(patterns=frozenset((each, False) for each in patterns), excluded=known)
            options.append(self._member(shape, key, plain, parent, level))
        return ebnf.alt(options)

    def _member(self, shape: Object, key: String, goal: Goal, parent: Goal, level: int) -> Expression:
        names = ebnf.alt(self._spellings(shape.keys, key, parent))
        if names == NOTHING or (goal and self.form.impossible(goal)):
            return NOTHING
        return Seq((names, Terminal(":"), WS, self.goal(goal, parent, level)))

    def _spellings(self, keys: Goal, key: String, parent: Goal) -> list[Expression]:
        """The spellings of an undeclared name that meets `key` and `keys`, the goal of propertyNames."""
        if not keys:
            return [self.undeclared(key, parent)]
        spelled: list[Expression] = []
        for shape in self.form.alternatives(keys):
            match shape:
                case Values(values):
                    spelled += [
                        Terminal(json.dumps(value, ensure_ascii=False))
                        for value in values
                        if isinstance(value, str)
                        and value not in key.excluded
                        and all(found(pattern, value) is holds for pattern, holds in key.patterns)
                    ]
                case String():
                    both = replace(
                        shape, patterns=shape.patterns | key.patterns, excluded=shape.excluded | key.excluded
                    )
                    spelled.append(self.undeclared(both, parent))
        return spelled


def _matches(patterns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The sets of patterns that an undeclared name may match: each combination of few patterns, else each one alone."""
    most = len(patterns) if len(patterns) <= _OVERLAPPING else 1
    return [each for size in range(1, most + 1) for each in combinations(patterns, size)]


def _undeclared(shape: Object, matched: tuple[str, ...]) -> Goal | None:
    """The goal of a member whose name is undeclared and matches these patterns; None if it is forbidden."""
    return _met(shape, lambda part: [goal for pattern, goal in part.patterns if pattern in matched])


def _met(shape: Object, goals_in: Callable[[ObjectPart], list[Goal]]) -> Goal | None:
    """What all schemas together demand of one name; `goals_in` says what one does. None if a schema forbids it."""
    merged: Goal = frozenset()
    seen: list[Scopes] = []
    for part in shape.parts:
        goals = goals_in(part)
        seen += [part.scopes] if goals or part.open else []
        if not goals:
            if part.extra is None:
                return None
            goals = [part.extra]
        merged = merged.union(*goals)
    return merged | left_over(shape.unevaluated, seen)


class _Members:
    """The members of one object as a chain of rules, one per (index of the next entry, number of members written)."""

    def __init__(self, page: Objects, entries: list[_Entry], extra: Expression, shape: Object, name: str) -> None:
        self.page = page
        self.entries = entries
        self.extra = extra
        self.name = name
        self.least = shape.least
        self.most = shape.most
        if extra == NOTHING and shape.most is not None and shape.most >= len(entries):
            self.most = None

    @property
    def countable(self) -> bool:
        """Whether the rules enforce minProperties, although two undeclared names may be equal."""
        needed = sum(entry.needed for entry in self.entries)
        return self.extra == NOTHING or self.least <= max(needed, 1)

    def expression(self) -> Expression:
        """Rules are built from the last entry to the first, so that many entries need no deep recursion."""
        for index in range(len(self.entries), -1, -1):
            for written in range(min(index, self._cap) + 1):
                self.page.rules[self._name(index, written)] = self._rest(index, written)
        return Seq((Terminal("{"), WS, Ref(self._name(0, 0))))

    @property
    def size(self) -> int:
        return (len(self.entries) + 1) * (min(len(self.entries), self._cap) + 1)

    @property
    def _cap(self) -> int:
        """From this many members on, the number of members written no longer matters."""
        return max(1, self.least) if self.most is None else self.most

    def _name(self, index: int, written: int) -> str:
        return f"{self.name}_{index}_{min(written, self._cap)}"

    def _state(self, index: int, written: int) -> Expression:
        return Ref(self._name(index, written))

    def _rest(self, index: int, written: int) -> Expression:
        if index == len(self.entries):
            return self._end(written)
        entry = self.entries[index]
        options: list[Expression] = []
        if self.most is None or written < self.most:
            comma = COMMA if written else EMPTY
            options.append(Seq((comma, entry.text, self._state(index + 1, written + 1))))
        if not entry.needed:
            options.append(self._state(index + 1, written))
        return ebnf.alt(options)

    def _end(self, written: int) -> Expression:
        least = max(0, self.least - written)
        most = None if self.most is None else self.most - written
        if self.extra == NOTHING:
            most = 0
        elif self.page.bounds.max_properties is not None:
            bound = max(least, self.page.bounds.max_properties)
            most = bound if most is None else min(most, bound)
        close = Seq((WS if written else EMPTY, Terminal("}")))
        if most is not None and most < least:
            return NOTHING
        if most == 0:
            return close
        if written:
            return Seq((following(self.extra, least, most), close))
        listed = Seq((self.extra, following(self.extra, max(least - 1, 0), None if most is None else most - 1), WS))
        return Seq((listed if least else ebnf.optional(listed), Terminal("}")))
