"""Objects and arrays as grammar rules.

An object is written in the order in which its schema declares its properties, each at most once; undeclared names
come last. Names that several schemas speak of meet all of them. White space is the rule `ws`, only where JSON has it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from kimi_k2_serving.grammar import ebnf
from kimi_k2_serving.grammar.bounds import Bounds
from kimi_k2_serving.grammar.ebnf import EMPTY, NOTHING, Expression, Ref, Repeat, Seq, Text
from kimi_k2_serving.grammar.normal_form import NormalForm, describe
from kimi_k2_serving.grammar.shapes import Array, Contains, Goal, Number, Object, String, Values
from kimi_k2_serving.grammar.validate import found

_WS = Ref("ws")
# Orders of the distinct values of an enumeration are all allowed up to this many, ascending ones only beyond.
_PERMUTED = 5
# Rules that counting the members of one object may take.
_STATES = 8_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """`text`: name, colon and value. `needed`: it has to be there."""

    text: Expression
    needed: bool


class Containers(ABC):
    """The part of a page that knows brackets and commas; goals of members are the page's to write."""

    def __init__(self, form: NormalForm, prefix: str, sort_keys: bool, bounds: Bounds) -> None:
        self.form = form
        self.prefix = prefix
        self.sort_keys = sort_keys
        self.bounds = bounds
        self.rules: dict[str, Expression] = {}
        self.relaxed: dict[str, None] = {}
        self._count = 0

    @abstractmethod
    def goal(self, goal: Goal, parent: Goal, level: int) -> Expression: ...

    @abstractmethod
    def scalar(self, shape: Number | String, goal: Goal) -> Expression: ...

    def relax(self, goal: Goal, keyword: str) -> None:
        for demand in sorted(goal, key=lambda demand: str(demand.pointer)):
            if demand.holds:
                self.relaxed[describe(self.form.document, (*demand.pointer, keyword))] = None
                return

    def _fresh(self) -> str:
        self._count += 1
        return f"{self.prefix}_c{self._count}"

    # Objects

    def object(self, shape: Object, parent: Goal, level: int) -> Expression:
        entries: list[_Entry] = []
        names = tuple(dict.fromkeys((*shape.declared, *shape.required)))
        for name in sorted(names) if self.sort_keys else names:
            goal = self._property(shape, name)
            needed = name in shape.required
            if goal is None and needed:
                return NOTHING
            if goal is not None:
                key = Text(json.dumps(name, ensure_ascii=False) + ":")
                entries.append(_Entry(Seq((key, _WS, self.goal(goal, parent, level))), needed))
        extra = self._extra(shape, frozenset(names), parent, level)
        members = _Members(self, entries, extra, shape, self._fresh())
        if not members.countable:
            # Two undeclared names may be equal: only so much of minProperties is held.
            self.relax(parent, "minProperties")
        if members.size > _STATES:
            for keyword in ("minProperties", "maxProperties"):
                self.relax(parent, keyword)
            members = _Members(self, entries, extra, replace(shape, least=0, most=None), self._fresh())
        return members.expression()

    def _property(self, shape: Object, name: str) -> Goal | None:
        """What a declared or required property has to meet; None if there may not be one."""
        if name in shape.forbidden or not self.form.satisfied(name, shape.keys):
            return None
        merged: Goal = frozenset()
        seen = False
        for part in shape.parts:
            goals = [goal for listed, goal in part.names if listed == name]
            goals += [goal for pattern, goal in part.patterns if found(pattern, name) is not False]
            seen = seen or (bool(goals) and part.evaluates) or part.open
            if not goals:
                if part.extra is None:
                    return None
                goals = [part.extra]
            merged = merged.union(*goals)
        return merged if seen or shape.unevaluated is None else merged | shape.unevaluated

    def _extra(self, shape: Object, names: frozenset[str], parent: Goal, level: int) -> Expression:
        """One member with a name that is not declared; NOTHING if the object is closed."""
        patterns = [(i, pattern, goal) for i, part in enumerate(shape.parts) for pattern, goal in part.patterns]
        known = names | shape.forbidden
        options: list[Expression] = []
        for i, pattern, goal in patterns:
            others = frozenset((other, False) for _, other, _ in patterns if other != pattern)
            rest = [goal for _, other, goal in patterns if other == pattern]
            rest += [part.extra for j, part in enumerate(shape.parts) if j != i and part.extra is not None]
            if all(part.extra is not None or j == i for j, part in enumerate(shape.parts)):
                key = String(patterns=others | {(pattern, True)}, excluded=known)
                options.append(self._member(shape, key, frozenset().union(*rest), parent, level))
        asked = any(part.open for part in shape.parts)
        goals = [part.extra for part in shape.parts]
        if shape.unevaluated is not None and not asked:
            goals.append(shape.unevaluated)
            asked = not self.form.impossible(shape.unevaluated)
        open_ = asked or not (shape.declared or patterns)
        if open_ and None not in goals:
            key = String(patterns=frozenset((pattern, False) for _, pattern, _ in patterns), excluded=known)
            met: Goal = frozenset().union(*(goal for goal in goals if goal is not None))
            options.append(self._member(shape, key, met, parent, level))
        return ebnf.alt(options)

    def _member(self, shape: Object, key: String, goal: Goal, parent: Goal, level: int) -> Expression:
        names = ebnf.alt(self._spellings(shape.keys, key, parent))
        if names == NOTHING or (goal and self.form.impossible(goal)):
            return NOTHING
        return Seq((names, Text(":"), _WS, self.goal(goal, parent, level)))

    def _spellings(self, keys: Goal, key: String, parent: Goal) -> list[Expression]:
        """Spellings of an undeclared name: within `key`, and within propertyNames."""
        if not keys:
            return [self.scalar(key, parent)]
        spelled: list[Expression] = []
        for shape in self.form.alternatives(keys):
            match shape:
                case Values(values):
                    spelled += [
                        Text(json.dumps(value, ensure_ascii=False))
                        for value in values
                        if isinstance(value, str)
                        and value not in key.excluded
                        and all(found(pattern, value) is holds for pattern, holds in key.patterns)
                    ]
                case String():
                    both = replace(
                        shape, patterns=shape.patterns | key.patterns, excluded=shape.excluded | key.excluded
                    )
                    spelled.append(self.scalar(both, parent))
        return spelled

    # Arrays

    def array(self, shape: Array, parent: Goal, level: int) -> Expression:
        options: list[Expression] = []
        for leading, rest, least, most in _contained(shape):
            if rest is not None and shape.unique and (most is None or most > 1):
                options.append(self._unique(leading, rest, least, most, parent, level))
            else:
                options.append(self._elements(leading, rest, least, most, parent, level))
        return ebnf.alt(options)

    def _elements(
        self, leading: list[Goal], rest: Goal | None, least: int, most: int | None, parent: Goal, level: int
    ) -> Expression:
        """`leading` element by element, then `rest` as often as the counts allow."""
        prefix = len(leading)
        if rest is None:
            most = prefix if most is None else min(most, prefix)
        if self.bounds.max_items is not None:
            bound = max(least, self.bounds.max_items)
            most = bound if most is None else min(most, bound)
        if most is not None and most < least:
            return NOTHING
        inside: Expression = EMPTY
        if rest is not None and (most is None or most > prefix):
            element = self.goal(rest, parent, level)
            low, high = max(least - prefix, 0), None if most is None else most - prefix
            inside = self._listed(element, low, high) if prefix == 0 else _following(element, low, high)
        for i in reversed(range(prefix if most is None else min(prefix, most))):
            comma = Seq((Text(","), _WS)) if i else EMPTY
            inside = Seq((comma, self.goal(leading[i], parent, level), inside))
            inside = inside if i < least else ebnf.optional(inside)
        return Seq((Text("["), _WS, inside, _WS, Text("]")))

    def _listed(self, element: Expression, least: int, most: int | None) -> Expression:
        if most == 0:
            return EMPTY
        body = Seq((element, _following(element, max(least - 1, 0), None if most is None else most - 1)))
        return body if least else ebnf.optional(body)

    def _unique(
        self, leading: list[Goal], rest: Goal, least: int, most: int | None, parent: Goal, level: int
    ) -> Expression:
        """Distinct elements: of a listed set, each once; else one element where that will do, else not held."""
        values = self._finite(rest) if not leading else None
        if values is not None and len(values) * (max(least, 1) if most is None else most) <= _STATES:
            return self._distinct(values, least, len(values) if most is None else min(most, len(values)))
        if least <= 1 and self.bounds.max_items is not None:
            return self._elements(leading, rest, least, 1, parent, level)
        self.relax(parent, "uniqueItems")
        return self._elements(leading, rest, least, most, parent, level)

    def _finite(self, goal: Goal) -> tuple[str, ...] | None:
        """The JSON texts of all values of a goal, if it lists them."""
        shapes = self.form.alternatives(goal)
        if not shapes or not all(isinstance(shape, Values) for shape in shapes):
            return None
        values = [value for shape in shapes if isinstance(shape, Values) for value in shape.values]
        return tuple(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in values))

    def _distinct(self, values: tuple[str, ...], least: int, most: int) -> Expression:
        """`least` to `most` of the texts, none twice."""
        if least > most:
            return NOTHING
        if self.bounds.max_items is not None:
            most = max(least, min(most, self.bounds.max_items))
        if len(values) <= _PERMUTED:
            return Seq((Text("["), _WS, self._any_order(self._fresh(), values, least, most, (), {})))
        name = self._fresh()
        cap = max(1, least) if most >= len(values) else most
        for index in range(len(values), -1, -1):
            for taken in range(min(index, cap) + 1):
                options: list[Expression] = []
                if index == len(values):
                    options = [Seq((_WS, Text("]")))] if taken >= least else []
                else:
                    options.append(Ref(f"{name}_{index + 1}_{taken}"))
                    if taken < most or most >= len(values):
                        comma = Seq((Text(","), _WS)) if taken else EMPTY
                        options.append(
                            Seq((comma, Text(values[index]), Ref(f"{name}_{index + 1}_{min(taken + 1, cap)}")))
                        )
                self.rules[f"{name}_{index}_{taken}"] = ebnf.alt(options)
        return Seq((Text("["), _WS, Ref(f"{name}_0_0")))

    def _any_order(
        self,
        name: str,
        values: tuple[str, ...],
        least: int,
        most: int,
        taken: tuple[int, ...],
        known: dict[frozenset[int], Expression],
    ) -> Expression:
        """What may follow when these values are taken: one rule per set of them."""
        key = frozenset(taken)
        if key not in known:
            known[key] = Ref(f"{name}_{'_'.join(map(str, sorted(key)))}x")
            options: list[Expression] = [Seq((_WS, Text("]")))] if len(taken) >= least else []
            for i, value in enumerate(values):
                if i not in key and len(taken) < most:
                    comma = Seq((Text(","), _WS)) if taken else EMPTY
                    rest = self._any_order(name, values, least, most, (*taken, i), known)
                    options.append(Seq((comma, Text(value), rest)))
            self.rules[f"{name}_{'_'.join(map(str, sorted(key)))}x"] = ebnf.alt(options)
        return known[key]


def _following(element: Expression, least: int, most: int | None) -> Expression:
    if most is not None and most <= 0:
        return EMPTY
    return Repeat(Seq((Text(","), _WS, element)), least, most)


def _contained(shape: Array) -> list[tuple[list[Goal], Goal | None, int, int | None]]:
    """Ways to place what `contains` asks for: leading goals, the goal of the rest, and the counts.

    Elements that are asked for come right behind the prefix, or are one of the prefix; a subset of all placings.
    """
    prefix: list[Goal] = []
    for i in range(shape.prefix):
        goal = shape.at(i)
        if goal is None:
            return [(prefix, None, shape.least, shape.most)]
        prefix.append(goal)
    rest = shape.at(shape.prefix)
    wanted = [each for each in shape.contains if each.least or each.most is not None]
    if not wanted:
        return [(prefix, rest, shape.least, shape.most)]
    ways = []
    if len(wanted) == 1 and wanted[0].least == 1 and wanted[0].most is None:
        for i, goal in enumerate(prefix):
            changed = [*prefix[:i], goal | wanted[0].goal, *prefix[i + 1 :]]
            ways.append((changed, rest, max(shape.least, i + 1), shape.most))
    if rest is not None:
        leading, after, low = _asked(prefix, rest, wanted)
        ways.append((leading, after, max(shape.least, low), shape.most))
    return ways


def _asked(prefix: list[Goal], rest: Goal, wanted: list[Contains]) -> tuple[list[Goal], Goal, int]:
    leading = list(prefix)
    for each in wanted:
        if each.most is not None:
            rest = rest | each.negated
            leading = [goal | each.negated for goal in leading]
    base = rest
    for each in wanted:
        free = base - each.negated
        leading.extend([free | each.goal] * each.least)
    return leading, rest, len(leading)


class _Members:
    """The members of one object as a chain of rules: (next entry, how many are written)."""

    def __init__(self, page: Containers, entries: list[_Entry], extra: Expression, shape: Object, name: str) -> None:
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
        """Whether minProperties is held although undeclared names may be equal."""
        needed = sum(entry.needed for entry in self.entries)
        return self.extra == NOTHING or self.least <= max(needed, 1)

    def expression(self) -> Expression:
        """Rules are built from the last entry to the first, so that no number of entries recurses."""
        for index in range(len(self.entries), -1, -1):
            for written in range(min(index, self._cap) + 1):
                self.page.rules[self._name(index, written)] = self._rest(index, written)
        return Seq((Text("{"), _WS, Ref(self._name(0, 0))))

    @property
    def size(self) -> int:
        return (len(self.entries) + 1) * (min(len(self.entries), self._cap) + 1)

    @property
    def _cap(self) -> int:
        """Beyond this many members the number written no longer matters."""
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
            comma = Seq((Text(","), _WS)) if written else EMPTY
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
        close = Seq((_WS if written else EMPTY, Text("}")))
        if most is not None and most < least:
            return NOTHING
        if most == 0:
            return close
        if written:
            return Seq((_following(self.extra, least, most), close))
        listed = Seq((self.extra, _following(self.extra, max(least - 1, 0), None if most is None else most - 1), _WS))
        return Seq((listed if least else ebnf.optional(listed), Text("}")))
