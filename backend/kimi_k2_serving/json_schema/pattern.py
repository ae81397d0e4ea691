"""`pattern` of JSON Schema: ECMA-262 regular expressions, as automata over the characters of a string.

A class such as `\\d` means different sets to different validators. With `narrow` it is the set that all of them accept,
for text that must match; without, the set that any of them accepts, for text that must not. Back-references, `\\b`, and
lookaround except at the very start have no automaton here: they raise NotRegular, and the caller relaxes the keyword.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from kimi_k2_serving.json_schema import automaton, ebnf
from kimi_k2_serving.json_schema.automaton import Automaton
from kimi_k2_serving.json_schema.code_points import (
    ANY,
    ASCII_CLASSES,
    CATEGORIES,
    category,
    complement,
    holds,
    merged,
    unicode_class,
)
from kimi_k2_serving.json_schema.ebnf import EMPTY, Expression, Interval, OneOf, Repeat, Seq, Terminal, alt

_ANYTHING = Repeat(OneOf(ANY), 0, None)
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CONTROL = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00, "a": 0x07}
_REPEATS = 1_000
# How many combinations of the alternatives of groups with anchors are written out.
_MAX_COMBINATIONS = 64


class NotRegular(Exception):
    """The pattern is malformed, or has a construct for which there is no automaton here."""


def matching(pattern: str, *, narrow: bool = True) -> Automaton:
    """The texts in which `pattern` is found. Raises NotRegular or automaton.TooLarge; failures are cached, too."""
    if not isinstance(found := _tried(pattern, narrow), Automaton):
        raise found
    return found


@functools.lru_cache(maxsize=1024)
def _tried(pattern: str, narrow: bool) -> Automaton | type[NotRegular | automaton.TooLarge]:
    try:
        return _matching(pattern, narrow=narrow)
    except (NotRegular, automaton.TooLarge) as error:
        return type(error)


def _matching(pattern: str, *, narrow: bool) -> Automaton:
    reader = _Reader(pattern, narrow=narrow)
    guards = reader.guards()
    first, *others = reader.whole()
    if not guards:
        return automaton.build_automaton(alt((first, *others)))
    # The lookaheads belong to the first alternative alone.
    found = automaton.build_automaton(first)
    for wanted, body in guards:
        # A negative lookahead removes texts, so its body was read the other way: not narrow if the rest is narrow.
        other = automaton.build_automaton(body)
        found = automaton.intersect(found, other) if wanted else automaton.subtract(found, other)
    return _either(found, automaton.build_automaton(alt(others))) if others else found


def _either(one: Automaton, other: Automaton) -> Automaton:
    every = automaton.build_automaton(_ANYTHING)
    return automaton.subtract(every, automaton.subtract(automaton.subtract(every, one), other))


@dataclass(frozen=True, slots=True)
class _Anchor:
    """`^` or `$`; supported only at the ends of an alternative, once groups are multiplied out."""

    at_start: bool


@dataclass(frozen=True, slots=True)
class _AnchoredGroup:
    """A group with an anchor inside, as in `(^|,)x`: its alternatives, to be multiplied out."""

    options: tuple[tuple[_Part, ...], ...]


_Part = Expression | _Anchor | _AnchoredGroup


class _Reader:
    """Recursive descent over the pattern's text."""

    def __init__(self, pattern: str, *, narrow: bool) -> None:
        # `(?i)` at the very start ignores case, as in the dialects that have it.
        self.folds = pattern.startswith("(?i)")
        self.text = pattern[4:] if self.folds else pattern
        self.at = 0
        self.narrow = narrow

    def guards(self) -> list[tuple[bool, Expression]]:
        """The lookaheads after a `^` at the very start; each is a condition on the whole text, true or false."""
        found: list[tuple[bool, Expression]] = []
        while self.text.startswith(("^(?=", "^(?!"), self.at) or (
            found and self.text.startswith(("(?=", "(?!"), self.at)
        ):
            self.at += self.text.startswith("^", self.at)
            holds = self.text[self.at + 2] == "="
            self.at += 3
            narrow, self.narrow = self.narrow, self.narrow == holds
            body = alt(self._alternatives(anchored_start=True))
            self.narrow = narrow
            self._expect(")")
            found.append((holds, body))
        if found:
            self.text = self.text[: self.at] + "^" + self.text[self.at :].removeprefix("^")
        return found

    def whole(self) -> list[Expression]:
        """The alternatives of the top level."""
        found = self._alternatives()
        if self.at < len(self.text):
            raise NotRegular
        return found

    def _alternatives(self, *, anchored_start: bool = False) -> list[Expression]:
        """Each alternative may be anchored at either end, and may stand anywhere otherwise."""
        found: list[Expression] = []
        while True:
            options = []
            for parts in _multiplied(self._parts()):
                first, last = 0, len(parts)
                while first < last and parts[first] == _Anchor(True):
                    first += 1
                while first < last and parts[last - 1] == _Anchor(False):
                    last -= 1
                before = EMPTY if first or anchored_start else _ANYTHING
                after = self._end() if last < len(parts) else _ANYTHING
                options.append(Seq((before, _sequence(parts[first:last]), after)))
            found.append(alt(options))
            if not self._take("|"):
                return found

    def _end(self) -> Expression:
        """Some validators let `$` match before a last line break."""
        return EMPTY if self.narrow else Repeat(Terminal("\n"), 0, 1)

    def _group(self) -> Expression | _AnchoredGroup:
        options = [tuple(self._parts())]
        while self._take("|"):
            options.append(tuple(self._parts()))
        if any(isinstance(part, _Anchor | _AnchoredGroup) for option in options for part in option):
            return _AnchoredGroup(tuple(options))
        return alt(map(_sequence, options))

    def _parts(self) -> list[_Part]:
        parts: list[_Part] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            atom = self._atom()
            if isinstance(atom, _AnchoredGroup) and self._take("?"):
                atom = _AnchoredGroup(((), *atom.options))
            if isinstance(atom, _AnchoredGroup) and self.text.startswith(("*", "+", "?", "{"), self.at):
                raise NotRegular
            parts.append(atom if isinstance(atom, _Anchor | _AnchoredGroup) else self._quantified(atom))
        return parts

    def _atom(self) -> _Part:
        character = self._next()
        match character:
            case "^":
                return _Anchor(True)
            case "$":
                return _Anchor(False)
            case ".":
                return OneOf(complement(_LINE_ENDS)) if self.narrow else OneOf(complement(((0x0A, 0x0A),)))
            case "[":
                return OneOf(self._class())
            case "(":
                self._open()
                body = self._group()
                self._expect(")")
                return body
            case "\\":
                return OneOf(self._folded(self._escape()))
            case "*" | "+" | "?":
                raise NotRegular
            case _:
                return OneOf(self._folded(((ord(character),) * 2,))) if self.folds else Terminal(character)

    def _folded(self, intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
        """The intervals with both cases of ASCII letters, if case is ignored. Beyond ASCII, dialects disagree."""
        if not self.folds:
            return intervals
        both = list(intervals)
        for low, high in intervals:
            for first, last, step in ((0x41, 0x5A, 0x20), (0x61, 0x7A, -0x20)):
                if max(low, first) <= min(high, last):
                    both.append((max(low, first) + step, min(high, last) + step))
        if not self.narrow:
            both += [(0x17F, 0x17F)] if holds(both, 0x73) else []
            both += [(0x212A, 0x212A)] if holds(both, 0x6B) else []
            if any(high > 0x7F for _, high in intervals):
                raise NotRegular
        return tuple(both)

    def _open(self) -> None:
        if not self._take("?"):
            return
        if self._take(":"):
            return
        self._take("P")
        if self._take("<") and self.at < len(self.text) and self.text[self.at] not in "=!":
            end = self.text.find(">", self.at)
            if end > 0:
                self.at = end + 1
                return
        raise NotRegular

    def _quantified(self, body: Expression) -> Expression:
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "{":
                bounds = self._counts()
                if bounds is None:
                    return body
            elif character in "*+?":
                self.at += 1
                bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
            else:
                return body
            if not self._take("?") and self.text.startswith("+", self.at):
                raise NotRegular
            body = Repeat(body, *bounds)
        return body

    def _counts(self) -> tuple[int, int | None] | None:
        """Reads `{m}`, `{m,}` or `{m,n}`. Any other brace is a literal: then it returns None and reads nothing."""
        end = self.text.find("}", self.at)
        inside = self.text[self.at + 1 : end] if end > 0 else ""
        first, comma, last = inside.partition(",")
        if not first.isascii() or not first.isdigit() or (last and not (last.isascii() and last.isdigit())):
            return None
        least = int(first)
        most = (int(last) if last else None) if comma else least
        if max(least, most or 0) > _REPEATS:
            raise automaton.TooLarge
        if most is not None and most < least:
            raise NotRegular
        self.at = end + 1
        return least, most

    def _escape(self) -> tuple[Interval, ...]:
        letter = self._next()
        if letter in "dws":
            return ASCII_CLASSES[letter] if self.narrow else unicode_class(letter)
        if letter in "DWS":
            name = letter.lower()
            return complement(unicode_class(name) if self.narrow else ASCII_CLASSES[name])
        if letter in "pP":
            return self._property(negated=letter == "P")
        if letter in "xu":
            return self._code(2 if letter == "x" else 4)
        if letter == "c":
            control = self._next()
            if not (control.isascii() and control.isalpha()):
                raise NotRegular
            return ((ord(control) % 32,) * 2,)
        if letter in _CONTROL:
            return ((_CONTROL[letter],) * 2,)
        if letter.isalnum():
            raise NotRegular
        return ((ord(letter),) * 2,)

    def _property(self, *, negated: bool) -> tuple[Interval, ...]:
        end = self.text.find("}", self.at)
        name = self.text[self.at + 1 : end]
        for prefix in ("General_Category=", "gc="):
            name = name.removeprefix(prefix)
        name = CATEGORIES.get(name, name)
        if not self.text.startswith("{", self.at) or name not in CATEGORIES.values() or self.folds:
            raise NotRegular
        self.at = end + 1
        return complement(category(name)) if negated else category(name)

    def _code(self, digits: int) -> tuple[Interval, ...]:
        if self._take("{"):
            end = self.text.find("}", self.at)
            text, self.at = self.text[self.at : max(end, self.at)], end + 1
        else:
            text, self.at = self.text[self.at : self.at + digits], self.at + digits
        if not text or any(c not in "0123456789abcdefABCDEF" for c in text) or int(text, 16) > ebnf.MAX_CODE_POINT:
            raise NotRegular
        return ((int(text, 16),) * 2,)

    def _class(self) -> tuple[Interval, ...]:
        negated = self._take("^")
        # In a negated class a wider member makes the class narrower, and the other way round.
        narrow, self.narrow = self.narrow, self.narrow != negated
        found: list[Interval] = []
        first = True
        while first or not self._take("]"):
            if first and self._take("]"):
                raise NotRegular
            first = False
            low = self._member()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = self._member()
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                    raise NotRegular
                low = ((low[0][0], high[0][0]),)
                if low[0][0] > low[0][1]:
                    raise NotRegular
            found.extend(self._folded(tuple(low)))
        self.narrow = narrow
        return complement(found) if negated else merged(found)

    def _member(self) -> tuple[Interval, ...]:
        character = self._next()
        if character != "\\":
            return ((ord(character),) * 2,)
        if self._take("b"):
            return ((8, 8),)
        return self._escape()

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise NotRegular
        self.at += 1
        return self.text[self.at - 1]

    def _take(self, character: str) -> bool:
        found = self.text.startswith(character, self.at)
        self.at += found
        return found

    def _expect(self, character: str) -> None:
        if not self._take(character):
            raise NotRegular


def _multiplied(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The alternatives of a sequence: one for each combination of the alternatives of its groups with anchors."""
    lines: list[list[_Part]] = [[]]
    for part in parts:
        options = [[part]]
        if isinstance(part, _AnchoredGroup):
            options = [line for option in part.options for line in _multiplied(option)]
        lines = [[*line, *more] for line in lines for more in options]
        if len(lines) > _MAX_COMBINATIONS:
            raise NotRegular
    return lines


def _sequence(parts: Sequence[_Part]) -> Expression:
    """Raises NotRegular for an anchor: an automaton of characters cannot express one inside a sequence."""
    body: list[Expression] = []
    for part in parts:
        if isinstance(part, _Anchor | _AnchoredGroup):
            raise NotRegular
        body.append(part)
    return Seq(tuple(body))
