"""A grammar as expressions and named rules, and its text in xgrammar's EBNF dialect.

An expression is a small immutable tree; rules may refer to one another in any order. `pruned` removes alternatives
that match no finite text, so every rule that remains can finish. Knows nothing of JSON or of schemas. Linear in the
size of the grammar, except for pruning, which may visit a rule once per rule that it depends on.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

Interval = tuple[int, int]
MAX_CODE_POINT = 0x10FFFF
# Code points by the length of their UTF-8 form. Surrogates are no characters and are left out.
_UTF8_RUNS: tuple[tuple[int, int, int], ...] = (
    (0, 0x7F, 1),
    (0x80, 0x7FF, 2),
    (0x800, 0xD7FF, 3),
    (0xE000, 0xFFFF, 3),
    (0x10000, MAX_CODE_POINT, 4),
)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Exactly these characters."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character of the given intervals of code points, both ends included."""

    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token, by id."""

    id: int


@dataclass(frozen=True, slots=True)
class TokensExcept:
    """Any number of tokens, none of which has one of these ids."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One of the options; without options it matches nothing."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`most` None means no maximum."""

    body: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Ref:
    rule: str


Expression = Terminal | OneOf | Token | TokensExcept | Seq | Alt | Repeat | Ref

EMPTY = Seq(())
NOTHING = Alt(())


def seq(*parts: Expression) -> Expression:
    return parts[0] if len(parts) == 1 else Seq(parts)


def alt(options: Iterable[Expression]) -> Expression:
    kept = tuple(dict.fromkeys(option for option in options if not _nothing(option)))
    return kept[0] if len(kept) == 1 else Alt(kept)


def optional(body: Expression) -> Expression:
    return alt((EMPTY, body))


def _nothing(body: Expression) -> bool:
    return isinstance(body, Alt) and not body.options


def _productive(rules: Mapping[str, Expression], needs: Mapping[str, list[str]]) -> frozenset[str]:
    """The rules that match some finite text. `needs`: the rules that each refers to.

    A rule is visited again only after a rule that it refers to was found to match.
    """
    users: dict[str, set[str]] = {}
    for name, needed in needs.items():
        for used in needed:
            users.setdefault(used, set()).add(name)
    found: set[str] = set()
    waiting = list(rules)
    while waiting:
        name = waiting.pop()
        if name not in found and _finishes(rules[name], found):
            found.add(name)
            waiting.extend(users.get(name, ()))
    return frozenset(found)


def _finishes(body: Expression, found: set[str]) -> bool:
    match body:
        case Terminal() | OneOf() | Token() | TokensExcept():
            return True
        case Seq(parts):
            return all(_finishes(part, found) for part in parts)
        case Alt(options):
            return any(_finishes(option, found) for option in options)
        case Repeat(inner, least, _):
            return least == 0 or _finishes(inner, found)
        case Ref(rule):
            return rule in found
        case _:
            assert_never(body)


def pruned(rules: Mapping[str, Expression], root: str) -> dict[str, Expression]:
    """The rules that `root` reaches, without alternatives that never finish; empty if the root itself never does."""
    needs = _needs(rules, root)
    found = {name: rules[name] for name in needs}
    alive = _productive(found, needs)
    if root not in alive:
        return {}
    kept: dict[str, Expression] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = _prune(found[name], alive)
            waiting.extend(needs[name] if kept[name] is found[name] else references(kept[name]))
    return kept


def reached(rules: Mapping[str, Expression], root: str) -> dict[str, Expression]:
    """The rules that `root` needs."""
    return {name: rules[name] for name in _needs(rules, root)}


def _needs(rules: Mapping[str, Expression], root: str) -> dict[str, list[str]]:
    """For each rule that `root` reaches, the rules that it refers to."""
    found: dict[str, list[str]] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = references(rules[name])
            waiting.extend(found[name])
    return found


def _prune(body: Expression, alive: frozenset[str]) -> Expression:
    match body:
        case Terminal() | OneOf() | Token() | TokensExcept():
            return body
        case Seq(parts):
            kept = tuple([_prune(part, alive) for part in parts])
            if any(map(_nothing, kept)):
                return NOTHING
            return body if all(map(operator.is_, kept, parts)) else Seq(kept)
        case Alt(options):
            kept = tuple([_prune(option, alive) for option in options])
            # Comparing expressions by value is expensive, and most are unchanged.
            unchanged = all(map(operator.is_, kept, options)) and not any(map(_nothing, kept))
            return body if unchanged else alt(kept)
        case Repeat(inner, least, most):
            inside = _prune(inner, alive)
            return Repeat(inside, least, most) if not _nothing(inside) else EMPTY if least == 0 else NOTHING
        case Ref(rule):
            return body if rule in alive else NOTHING
        case _:
            assert_never(body)


def references(body: Expression) -> list[str]:
    """The rules an expression refers to, in order, with repetitions."""
    found: list[str] = []
    waiting = [body]
    while waiting:
        match waiting.pop():
            case Ref(rule):
                found.append(rule)
            case Seq(parts) | Alt(parts):
                waiting.extend(reversed(parts))
            case Repeat(inner, _, _):
                waiting.append(inner)
            case _:
                pass
    return found


def write_grammar(rules: Mapping[str, Expression]) -> str:
    """The grammar's text, one rule a line; the start rule must be called `root`."""
    return "".join(f"{name} ::= {_text(body, outer=True)}\n" for name, body in rules.items())


def _text(body: Expression, *, outer: bool = False) -> str:
    match body:
        case Terminal(text):
            return '"' + "".join(map(_literal, text)) + '"'
        case OneOf(intervals):
            return "[" + "".join(_range(*piece) for piece in _pieces(intervals)) + "]"
        case Token(number):
            return f"Token({number})"
        case TokensExcept(ids):
            return f"ExcludeToken({', '.join(map(str, ids))})*"
        case Seq(parts):
            return " ".join(map(_text, parts)) if parts else '""'
        case Alt(options):
            text = " | ".join(map(_text, options))
            return text if outer else f"({text})"
        case Repeat(inner, least, most):
            atom = f"({_text(inner)})" if isinstance(inner, Seq | Repeat) else _text(inner)
            return f"{atom}{{{least},{'' if most is None else most}}}"
        case Ref(rule):
            return rule
        case _:
            assert_never(body)


def _pieces(intervals: Iterable[Interval]) -> list[Interval]:
    """The intervals without surrogates, cut so that the UTF-8 forms of each piece are a product of byte ranges.

    xgrammar 0.2.7 loses characters of other ranges: of U+0800 to U+D7FF it refuses all from U+D000 on.
    """
    return [
        piece
        for low, high in intervals
        for first, last, size in _UTF8_RUNS
        if low <= last and high >= first
        for piece in _product(max(low, first), min(high, last), size)
    ]


def _product(low: int, high: int, size: int) -> list[Interval]:
    """Each continuation byte holds six bits: cut where a piece would begin or end inside a block of them."""
    for i in range(1, size):
        mask = (1 << 6 * i) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                return [*_product(low, low | mask, size), *_product((low | mask) + 1, high, size)]
            if high & mask != mask:
                return [*_product(low, (high & ~mask) - 1, size), *_product(high & ~mask, high, size)]
    return [(low, high)]


def _range(low: int, high: int) -> str:
    return _escape(low) if low == high else f"{_escape(low)}-{_escape(high)}"


def _escape(code: int) -> str:
    """Only escapes of fixed length: `\\x` would also read any hexadecimal digits that follow it."""
    character = chr(code)
    if character.isascii() and character.isalnum():
        return character
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _literal(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else _escape(ord(character))
