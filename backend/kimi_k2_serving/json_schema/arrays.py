"""Arrays as grammar rules.

`contains` is counted while the elements are written. `uniqueItems` is enforced if the elements' values are listed.
"""

from __future__ import annotations

import json
from itertools import combinations
from math import prod

from kimi_k2_serving.json_schema import ebnf
from kimi_k2_serving.json_schema.containers import COMMA, STATES, WS, Containers, following
from kimi_k2_serving.json_schema.ebnf import EMPTY, NOTHING, Expression, Ref, Seq, Terminal
from kimi_k2_serving.json_schema.shapes import Array, Contains, Goal, Values

# Up to this many distinct values may come in any order; more come in the order in which they are listed.
_PERMUTED = 5
# With more `contains` keywords than this in one array, none is counted.
_COUNTED = 3


class Arrays(Containers):
    """Writes arrays."""

    def array(self, shape: Array, parent: Goal, level: int) -> Expression:
        wanted = tuple(each for each in shape.contains if each.least or each.most is not None)
        needed = max((shape.least, *(each.least for each in wanted)))
        if any(each.most is not None and each.most < each.least for each in wanted):
            return NOTHING
        most = self._bounded(shape, needed)
        if most is not None and most < needed:
            return NOTHING
        if shape.unique and (most is None or most > 1):
            values = None if wanted or shape.prefix else self._finite(shape.at(0))
            if values is not None and len(values) * (max(needed, 1) if most is None else most) <= STATES:
                return self._distinct(values, needed, len(values) if most is None else min(most, len(values)))
            if needed <= 1 and self.bounds.max_items is not None:
                most = 1
            else:
                self.relax(parent, "uniqueItems")
        if wanted:
            return self._containing(shape, wanted, most, parent, level)
        return self._elements(shape, most, parent, level)

    def _bounded(self, shape: Array, needed: int) -> int | None:
        """How many elements the schema and the bounds allow at most; None if there is no maximum."""
        most = shape.most
        if self.bounds.max_items is not None:
            bound = max(needed, self.bounds.max_items)
            most = bound if most is None else min(most, bound)
        closed = next((i for i in range(shape.prefix + 1) if shape.at(i, frozenset(shape.contains)) is None), None)
        return most if closed is None else closed if most is None else min(most, closed)

    def _elements(self, shape: Array, most: int | None, parent: Goal, level: int) -> Expression:
        """The leading elements one by one, then as many others as minItems and maxItems allow."""
        prefix = shape.prefix
        inside: Expression = EMPTY
        rest = shape.at(prefix)
        if rest is not None and (most is None or most > prefix):
            element = self.goal(rest, parent, level)
            low, high = max(shape.least - prefix, 0), None if most is None else most - prefix
            inside = self._listed(element, low, high) if prefix == 0 else following(element, low, high)
        for i in reversed(range(prefix if most is None else min(prefix, most))):
            goal = shape.at(i)
            element = NOTHING if goal is None else self.goal(goal, parent, level)
            inside = Seq((COMMA if i else EMPTY, element, inside))
            inside = inside if i < shape.least else ebnf.optional(inside)
        return Seq((Terminal("["), WS, inside, WS, Terminal("]")))

    def _containing(
        self, shape: Array, wanted: tuple[Contains, ...], most: int | None, parent: Goal, level: int
    ) -> Expression:
        """One rule per number of elements written and of matches of each `contains`, as far as the numbers matter."""
        caps = tuple(each.least if each.most is None else each.most for each in wanted)
        last = max(shape.prefix, shape.least) if most is None else most
        if len(wanted) > _COUNTED or (last + 1) * prod(cap + 1 for cap in caps) > STATES:
            self.relax(parent, "contains")
            return self._elements(shape, most, parent, level)
        name = self._fresh()
        start = (0, (0,) * len(wanted))
        waiting = [start]
        written: set[tuple[int, tuple[int, ...]]] = set()
        while waiting:
            index, counts = state = waiting.pop()
            if state in written:
                continue
            written.add(state)
            options: list[Expression] = []
            if index >= shape.least and all(n >= each.least for n, each in zip(counts, wanted, strict=True)):
                options.append(Seq((WS, Terminal("]"))))
            for element, following_counts in self._matching(shape, wanted, state, most, parent, level):
                # After `last` elements the number no longer matters, but all elements after the first have a comma.
                target = (min(index + 1, max(last, 1)), following_counts)
                waiting.append(target)
                options.append(Seq((COMMA if index else EMPTY, element, Ref(_state(name, *target)))))
            self.rules[_state(name, *state)] = ebnf.alt(options)
        return Seq((Terminal("["), WS, Ref(_state(name, *start))))

    def _matching(
        self,
        shape: Array,
        wanted: tuple[Contains, ...],
        state: tuple[int, tuple[int, ...]],
        most: int | None,
        parent: Goal,
        level: int,
    ) -> list[tuple[Expression, tuple[int, ...]]]:
        """The possible next elements, one per set of `contains` that the element counts for, with the counts after it.

        It may match further ones that have no maximum.
        """
        index, counts = state
        if most is not None and index >= most:
            return []
        found = []
        for chosen in (each for size in range(len(wanted) + 1) for each in combinations(range(len(wanted)), size)):
            matched = frozenset(wanted[i] for i in chosen)
            if any(wanted[i].most == counts[i] for i in chosen):
                continue
            if not shape.unevaluated and any(wanted[i].most is None and wanted[i].least == counts[i] for i in chosen):
                continue
            goal = shape.at(min(index, shape.prefix), matched)
            if goal is None:
                continue
            for each in wanted:
                if each in matched:
                    goal = goal | each.goal
                elif each.most is not None:
                    goal = goal | each.negated
            caps = [each.least if each.most is None else each.most for each in wanted]
            after = tuple(min(n + (i in chosen), caps[i]) for i, n in enumerate(counts))
            if not self.form.impossible(goal):
                found.append((self.goal(goal, parent, level), after))
        return found

    def _listed(self, element: Expression, least: int, most: int | None) -> Expression:
        if most == 0:
            return EMPTY
        body = Seq((element, following(element, max(least - 1, 0), None if most is None else most - 1)))
        return body if least else ebnf.optional(body)

    def _finite(self, goal: Goal | None) -> tuple[str, ...] | None:
        """The JSON texts of all values of a goal; None if the goal does not list its values."""
        if goal is None:
            return None
        shapes = self.form.alternatives(goal)
        if not shapes or not all(isinstance(shape, Values) for shape in shapes):
            return None
        values = [value for shape in shapes if isinstance(shape, Values) for value in shape.values]
        return tuple(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in values))

    def _distinct(self, values: tuple[str, ...], least: int, most: int) -> Expression:
        """An array of `least` to `most` of these texts, none of them twice."""
        if least > most:
            return NOTHING
        if self.bounds.max_items is not None:
            most = max(least, min(most, self.bounds.max_items))
        if len(values) <= _PERMUTED:
            return Seq((Terminal("["), WS, self._any_order(self._fresh(), values, least, most, (), {})))
        name = self._fresh()
        cap = max(1, least) if most >= len(values) else most
        for index in range(len(values), -1, -1):
            for taken in range(min(index, cap) + 1):
                options: list[Expression] = []
                if index == len(values):
                    options = [Seq((WS, Terminal("]")))] if taken >= least else []
                else:
                    options.append(Ref(f"{name}_{index + 1}_{taken}"))
                    if taken < most or most >= len(values):
                        comma = COMMA if taken else EMPTY
                        options.append(
                            Seq((comma, Terminal(values[index]), Ref(f"{name}_{index + 1}_{min(taken + 1, cap)}")))
                        )
                self.rules[f"{name}_{index}_{taken}"] = ebnf.alt(options)
        return Seq((Terminal("["), WS, Ref(f"{name}_0_0")))

    def _any_order(
        self,
        name: str,
        values: tuple[str, ...],
        least: int,
        most: int,
        taken: tuple[int, ...],
        known: dict[frozenset[int], Expression],
    ) -> Expression:
        """What may follow once the values `taken` are written: one rule per set of values."""
        key = frozenset(taken)
        if key not in known:
            known[key] = Ref(f"{name}_{'_'.join(map(str, sorted(key)))}x")
            options: list[Expression] = [Seq((WS, Terminal("]")))] if len(taken) >= least else []
            for i, value in enumerate(values):
                if i not in key and len(taken) < most:
                    comma = COMMA if taken else EMPTY
                    rest = self._any_order(name, values, least, most, (*taken, i), known)
                    options.append(Seq((comma, Terminal(value), rest)))
            self.rules[f"{name}_{'_'.join(map(str, sorted(key)))}x"] = ebnf.alt(options)
        return known[key]


def _state(name: str, index: int, counts: tuple[int, ...]) -> str:
    return f"{name}_{index}_{'_'.join(map(str, counts))}"
