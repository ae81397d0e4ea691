"""Fewer rules for the same language: equal rules become one, and a rule that one place alone needs goes there.

xgrammar 0.2.7 compares rules with one another when it compiles: 7,600 of them take six times as long as 3,800 do. What
stays a rule: whatever is recursive, and choices inside a sequence, of which xgrammar would make a rule again. Linear.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from kimi_k2_serving.json_schema.ebnf import Alt, Expression, Ref, Repeat, Seq, alt, references

# A longer choice stays a rule: choices of choices would be copied over and over.
_MOST_OPTIONS = 8


def shared(rules: Mapping[str, Expression], root: str) -> dict[str, Expression]:
    """The rules that `root` needs, the same language under the same root."""
    merged = _Merger(rules).merged(root)
    needs = {name: references(body) for name, body in merged.items()}
    uses = Counter(chain.from_iterable(needs.values()))
    kept: dict[str, Expression] = {}
    placed: dict[str, Expression] = {}
    seen: set[str] = set()
    # Whatever a rule needs comes before it, unless they need each other.
    for name, body in merged.items():
        found = _placed(body, placed, outer=True) if needs[name] else body
        once = uses[name] == 1 and name != root and seen.issuperset(needs[name])
        (placed if once else kept)[name] = found
        seen.add(name)
    return _complete({root: kept.pop(root), **kept}, placed)


def _complete(rules: dict[str, Expression], placed: Mapping[str, Expression]) -> dict[str, Expression]:
    """What had no place after all is a rule again."""
    waiting = list(rules.values())
    while waiting:
        for name in references(waiting.pop()):
            if name not in rules:
                rules[name] = placed[name]
                waiting.append(placed[name])
    return rules


def _placed(body: Expression, placed: Mapping[str, Expression], *, outer: bool = False) -> Expression:
    """`outer`: a choice may stand here, as a rule's body or as one option of it."""
    match body:
        case Ref(rule) if rule in placed:
            found = placed[rule]
            fits = not isinstance(found, Alt) or (outer and len(found.options) <= _MOST_OPTIONS)
            return found if fits else body
        case Seq(parts):
            return Seq(tuple(_flat(_placed(part, placed) for part in parts)))
        case Alt(options) if outer:
            found_options = [_placed(option, placed, outer=True) for option in options]
            return Alt(tuple(each for option in found_options for each in _options(option)))
        case _:
            return body


def _flat(parts: Iterator[Expression]) -> Iterator[Expression]:
    for part in parts:
        if isinstance(part, Seq):
            yield from part.parts
        else:
            yield part


def _options(option: Expression) -> tuple[Expression, ...]:
    return option.options if isinstance(option, Alt) else (option,)


class _Merger:
    """Rules from those that need no others upwards, so that equal ones are found in one walk."""

    def __init__(self, rules: Mapping[str, Expression]) -> None:
        self.rules = rules
        self._names: dict[str, str] = {}
        self._by_body: dict[Expression, str] = {}
        self._bodies: dict[str, Expression] = {}

    def merged(self, root: str) -> dict[str, Expression]:
        open_rules = {root}
        path = [(root, iter(references(self.rules[root])))]
        while path:
            name, needed = path[-1]
            following = next(needed, None)
            if following is None:
                path.pop()
                self._close(name)
            elif following not in open_rules:
                open_rules.add(following)
                path.append((following, iter(references(self.rules[following]))))
        self._bodies[root] = self._renamed(self.rules[root])
        return {name: self._renamed(body) for name, body in self._bodies.items()}

    def _close(self, name: str) -> None:
        body = self._renamed(self.rules[name])
        self._names[name] = body.rule if isinstance(body, Ref) else self._by_body.setdefault(body, name)
        if self._names[name] == name:
            self._bodies[name] = body

    def _name(self, rule: str) -> str:
        while (other := self._names.get(rule, rule)) != rule:
            rule = other
        return rule

    def _renamed(self, body: Expression) -> Expression:
        match body:
            case Ref(rule):
                name = self._name(rule)
                return body if name == rule else Ref(name)
            case Seq(parts):
                return body if (renamed := self._all(parts)) is parts else Seq(renamed)
            case Alt(options):
                return body if (renamed := self._all(options)) is options else alt(renamed)
            case Repeat(inner, least, most):
                return Repeat(self._renamed(inner), least, most)
            case _:
                return body

    def _all(self, parts: tuple[Expression, ...]) -> tuple[Expression, ...]:
        """`parts` itself where nothing changes: to compare expressions is dear."""
        renamed = tuple(map(self._renamed, parts))
        return parts if all(map(operator.is_, renamed, parts)) else renamed
