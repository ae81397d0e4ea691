"""Counted repetition as plain rules.

xgrammar 0.2.7 repeats a run of one character class correctly. For counted repetition of anything else its token masks
admit tokens that it then refuses, or become empty. So every other count is written as rules: one rule per step for
small counts, doubling rules for large ones, so that a count of n takes O(log n) rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from kimi_k2_serving.json_schema.ebnf import EMPTY, Alt, Expression, OneOf, Ref, Repeat, Seq, alt

_CLASS_RUN = 40
_STEPS = 24


def expanded(rules: Mapping[str, Expression]) -> dict[str, Expression]:
    """The same grammar without counted repetition, except for short runs of a character class."""
    expander = _Expander()
    result = {name: expander.lower(body) for name, body in rules.items()}
    return {**result, **expander.rules}


class _Expander:
    def __init__(self) -> None:
        self.rules: dict[str, Expression] = {}
        self._bodies: dict[Expression, str] = {}

    def lower(self, body: Expression) -> Expression:
        match body:
            case Seq(parts):
                return Seq(tuple(map(self.lower, parts)))
            case Alt(options):
                return alt(map(self.lower, options))
            case Repeat(OneOf(), _, most) if most is not None and most <= _CLASS_RUN:
                return body
            case Repeat(inner, least, most):
                return self._counted(self._named(self.lower(inner)), least, most)
            case _:
                return body

    def _named(self, body: Expression) -> str:
        if isinstance(body, Ref):
            return body.rule
        if body not in self._bodies:
            self._bodies[body] = f"x{len(self._bodies)}"
            self.rules[self._bodies[body]] = body
        return self._bodies[body]

    def _counted(self, item: str, least: int, most: int | None) -> Expression:
        if most is None:
            rest = f"{item}_any"
            self.rules.setdefault(rest, alt((EMPTY, Seq((Ref(item), Ref(rest))))))
        else:
            rest = self._up_to(item, most - least)
        return Seq((*self._exactly(item, least), Ref(rest))) if rest else Seq(tuple(self._exactly(item, least)))

    def _exactly(self, item: str, count: int) -> list[Expression]:
        if count <= _STEPS:
            return [Ref(item)] * count
        half = self._double(item, count.bit_length() - 1)
        return [Ref(half), *self._exactly(item, count - (1 << (count.bit_length() - 1)))]

    def _double(self, item: str, power: int) -> str:
        """The name of a rule for 2^power items."""
        if power == 0:
            return item
        name = f"{item}_by{power}"
        if name not in self.rules:
            half = Ref(self._double(item, power - 1))
            self.rules[name] = Seq((half, half))
        return name

    def _up_to(self, item: str, count: int) -> str:
        """The name of a rule for 0 to `count` items; "" if `count` is not positive."""
        if count <= 0:
            return ""
        name = f"{item}_to{count}"
        if name not in self.rules:
            self.rules[name] = EMPTY
            if count <= _STEPS:
                fewer = self._up_to(item, count - 1)
                self.rules[name] = alt((EMPTY, Seq((Ref(item), Ref(fewer))) if fewer else Ref(item)))
            else:
                power = (count + 1).bit_length() - 1
                below = self._up_to(item, (1 << (power - 1)) - 1)
                more = self._up_to(item, count - (1 << (power - 1)))
                self.rules[name] = alt((Ref(below), Seq((Ref(self._double(item, power - 1)), Ref(more)))))
        return name
