"""JSON strings as rules: free, of limited length, or restricted by an automaton.

Raw control characters and halves of surrogate pairs are never admitted. A free character may be written raw or as any
of its escapes; a character of an automaton in one way only. Each state is one right-linear rule, because xgrammar
computes a token mask once per state and then looks it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kimi_k2_serving.json_schema import automaton, pattern
from kimi_k2_serving.json_schema.automaton import Automaton, Edge, TooLarge
from kimi_k2_serving.json_schema.code_points import ANY, complement
from kimi_k2_serving.json_schema.ebnf import (
    MAX_CODE_POINT,
    Expression,
    Interval,
    OneOf,
    Ref,
    Repeat,
    Seq,
    Terminal,
    alt,
)
from kimi_k2_serving.json_schema.formats import PATTERNS
from kimi_k2_serving.json_schema.shapes import String

# A state in which any character may follow costs a pass over the vocabulary when the grammar is compiled: 26 to 41 ms
# of one core for 163,840 tokens. So one string may count COUNTED free characters one by one, a request may cost PASSES
# passes, and a larger minLength is counted in blocks.
COUNTED = 32
PASSES = 32.0
BLOCK = 32
# Up to this many escapes are written into a state's own rule.
_INLINE = 3
# The share of a full pass that a state costs if it admits this character: the share of such tokens in the vocabulary.
_SHARES = ((0x20, 0.35), (0x7A, 0.15), (0x5A, 0.15), (0x4E00, 0.35))
# How many passes one object may cost to exclude the declared names from the undeclared ones.
_NAME_PASSES = 6.0
# The characters with which an undeclared name may depart from the beginning of a declared one; fewer are cheaper.
_ASCII: tuple[Interval, ...] = ((0x20, 0x7E),)
_NAME: tuple[Interval, ...] = ((0x2D, 0x2E), (0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_QUOTE = Terminal('"')
_RAW: tuple[Interval, ...] = ((0x20, 0x21), (0x23, 0x5B), (0x5D, MAX_CODE_POINT))
_SHORT = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
_HEX = OneOf(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))
_D = OneOf(((0x44, 0x44), (0x64, 0x64)))
# The rule `unicode`, after \u: a character that is no surrogate, or both halves of a pair.
UNICODE = alt(
    (
        Seq((OneOf(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66))), _HEX, _HEX, _HEX)),
        Seq((_D, OneOf(((0x30, 0x37),)), _HEX, _HEX)),
        Seq(
            (
                _D,
                OneOf(((0x38, 0x39), (0x41, 0x42), (0x61, 0x62))),
                _HEX,
                _HEX,
                Terminal("\\u"),
                _D,
                OneOf(((0x43, 0x46), (0x63, 0x66))),
                _HEX,
                _HEX,
            )
        ),
    )
)
_ESCAPED = OneOf(tuple((ord(c), ord(c)) for c in sorted('"/\\bfnrt')))

EVERYTHING = automaton.build_automaton(Repeat(OneOf(ANY), 0, None))


def any_character(following: Expression) -> list[Expression]:
    """One character in any spelling, then `following`."""
    return [
        Seq((OneOf(_RAW), following)),
        Seq((Terminal("\\"), _ESCAPED, following)),
        Seq((Terminal("\\u"), Ref("unicode"), following)),
    ]


def counted(least: int, most: int | None, rules: dict[str, Expression]) -> Expression:
    """The rest of a string after its opening quote: `least` to `most` characters, then the closing quote."""
    blocks = least // BLOCK if least > COUNTED else 0
    if blocks:
        rest = counted(least - blocks * BLOCK, None if most is None else most - blocks * BLOCK, rules)
        return Seq((Repeat(_block(rules), blocks, blocks), rest))
    name = f"chars_{least}_{'n' if most is None else most}"
    if name not in rules:
        rules[name] = Seq(())
        options: list[Expression] = [_QUOTE] if least == 0 else []
        if most is None or most > 0:
            following = counted(max(least - 1, 0), None if most is None else most - 1, rules)
            options.extend(any_character(following))
        rules[name] = alt(options)
    return Ref(name)


def _block(rules: dict[str, Expression]) -> Expression:
    """Exactly BLOCK characters. xgrammar's own counted repetition is not used: its masks admit tokens it refuses."""
    for i in range(BLOCK) if "block_1" not in rules else ():
        rules[f"block_{i + 1}"] = alt(any_character(Ref(f"block_{i}") if i else Seq(())))
    return Ref(f"block_{BLOCK}")


def passes(found: Automaton) -> float:
    """Roughly how many passes over the vocabulary an automaton costs, without the free state that strings share."""
    return sum(
        share
        for state, edges in enumerate(found.edges)
        if not _free(edges, state)
        for code, share in _SHARES
        if any(low <= code <= high for low, high, _ in edges)
    )


def _free(edges: tuple[Edge, ...], state: int) -> bool:
    """Whether any text may follow the state; in a reduced automaton such a state is accepting."""
    return edges == ((0, MAX_CODE_POINT, state),)


def counted_passes(least: int, most: int | None, rules: dict[str, Expression]) -> int:
    """How many rules `counted` would add to `rules`."""
    least = least % BLOCK if least > COUNTED else least
    steps = least if most is None else most
    names = (f"chars_{max(least - i, 0)}_{'n' if most is None else most - i}" for i in range(steps + 1))
    return sum(name not in rules for name in names)


def string_rule(found: Automaton, name: str, rules: dict[str, Expression], *, quoted: bool) -> Expression:
    """Rules for an automaton's texts: if `quoted`, as a JSON string after its opening quote, else as they are."""
    end: Expression = _QUOTE if quoted else Seq(())
    free = {state for state, edges in enumerate(found.edges) if quoted and _free(edges, state)}
    for state, edges in enumerate(found.edges):
        if state in free and state:
            continue
        options: list[Expression] = [end] if state in found.accepting else []
        for target, intervals in _by_target(edges):
            following = counted(0, None, rules) if target in free else Ref(f"{name}_{target}")
            if not quoted:
                options.append(Seq((OneOf(intervals), following)))
            elif intervals == ((0, MAX_CODE_POINT),):
                options.extend(any_character(following))
            else:
                options.extend(Seq((piece, following)) for piece in _pieces(intervals, rules))
        rules[f"{name}_{state}"] = alt(options)
    return Ref(f"{name}_0")


def _by_target(edges: tuple[Edge, ...]) -> list[tuple[int, tuple[Interval, ...]]]:
    found: dict[int, list[Interval]] = {}
    for low, high, target in edges:
        found.setdefault(target, []).append((low, high))
    return [(target, tuple(intervals)) for target, intervals in found.items()]


def _pieces(intervals: tuple[Interval, ...], rules: dict[str, Expression]) -> Iterator[Expression]:
    """The characters of `intervals`; those that JSON must escape are written as their shortest escape."""
    raw = tuple(
        (max(low, first), min(high, last))
        for low, high in intervals
        for first, last in _RAW
        if max(low, first) <= min(high, last)
    )
    if any(not 0xD800 <= low <= high <= 0xDFFF for low, high in raw):
        yield OneOf(raw)
    escaped = [
        Terminal(_SHORT.get(code, f"\\u{code:04x}"))
        for low, high in intervals
        for code in (*range(low, min(high, 0x1F) + 1), *(c for c in (0x22, 0x5C) if low <= c <= high))
    ]
    if len(escaped) <= _INLINE:
        yield from escaped
        return
    # Most states of a pattern allow the same escapes, so they share one rule.
    name = f"escapes_{'_'.join(f'{low:x}_{min(high, 0x5C):x}' for low, high in intervals if low <= 0x5C)}"
    yield _shared(name, alt(escaped), rules)


def _shared(name: str, body: Expression, rules: dict[str, Expression]) -> Expression:
    rules.setdefault(name, body)
    return Ref(name)


def string_language(
    shape: String, longest: int | None, give_up: Callable[[str], object], *, spare: float = PASSES
) -> Automaton | None:
    """The automaton of a string with a pattern, a format or exclusions; None if only its length matters.

    `longest` is a further maximum length, which yields to minLength. `give_up` is called with each keyword that the
    automaton does not enforce. `spare` is how many passes are left; excluding texts takes an eighth of it at most.
    """
    parts = list(_automata(shape, give_up))
    if not parts and not shape.excluded:
        return None
    found = parts[0] if parts else EVERYTHING
    steps = [("pattern", part) for part in parts[1:]]
    for keyword, part in steps:
        found = _narrowed(found, part, keyword, give_up)
    if shape.excluded:
        found = _narrowed(found, every_text_but(shape.excluded, min(_NAME_PASSES, spare / 8)), "not", give_up)
    most = shape.most
    if longest is not None:
        bound = max(longest, shape.least, found.shortest)
        most = bound if most is None else min(most, bound)
    for keyword, least, end in (("minLength", shape.least, None), ("maxLength", 0, most)):
        if least or end is not None:
            found = _narrowed(found, (least, end), keyword, give_up)
    return found


def every_text_but(texts: frozenset[str], most: float = _NAME_PASSES) -> Automaton:
    """Every text but these, if that takes at most `most` passes; otherwise fewer texts.

    First a text that begins like one of these must depart from it with printable ASCII, then it may have only
    characters of names from there on. If that takes too much, it must depart from these within its first characters,
    and in the end begin with a character of names that none of these begins with.
    """
    for alphabet, rest in ((ANY, ANY), (_ASCII, ANY), (_NAME, _NAME)):
        found = _leaving(texts, alphabet, rest)
        if passes(found) <= most:
            return found
    found = _beginning_elsewhere(texts)
    cut = 1
    while True:
        short = automaton.words(text for text in texts if len(text) < cut)
        long = automaton.words({text[:cut] for text in texts if len(text) >= cut})
        finer = automaton.subtract(automaton.subtract(EVERYTHING, short), _beginning(long))
        if passes(finer) > most:
            return found
        if cut > max(map(len, texts)):
            return finer
        found = finer
        cut *= 2


def _beginning_elsewhere(texts: frozenset[str]) -> Automaton:
    """Every text that begins with a character of names, but with none that one of `texts` begins with."""
    begun = tuple((ord(text[0]), ord(text[0])) for text in texts if text)
    first = complement((*begun, *complement(_NAME)))
    return automaton.build_automaton(Seq((OneOf(first), Repeat(OneOf(ANY), 0, None))) if first else alt(()))


def _leaving(texts: frozenset[str], alphabet: tuple[Interval, ...], rest: tuple[Interval, ...]) -> Automaton:
    """Every text but these that differs from them at the first character, or later by a character of `alphabet`,
    followed by `rest`. A proper beginning of one of them is admitted, too.
    """
    known_texts = automaton.words(texts)
    free = len(known_texts.edges)
    edges = [
        tuple(sorted((*known, *((low, high, free + bool(state)) for low, high in _left(known, alphabet, state)))))
        for state, known in enumerate(known_texts.edges)
    ]
    edges += [tuple((low, high, free + i) for low, high in after) for i, after in enumerate((ANY, rest))]
    return automaton.reduce(Automaton(tuple(edges), frozenset(range(free + 2)) - known_texts.accepting))


def _left(known: tuple[Edge, ...], alphabet: tuple[Interval, ...], state: int) -> Iterator[Interval]:
    """The characters that no edge in `known` takes; after the first character only those of `alphabet`."""
    outside = complement(alphabet if state else ANY)
    return iter(complement((*((low, high) for low, high, _ in known), *outside)))


def _beginning(found: Automaton) -> Automaton:
    """Every text that begins with one of these texts, none of which may begin with another."""
    edges = tuple(
        ((0, MAX_CODE_POINT, state),) if state in found.accepting else edges for state, edges in enumerate(found.edges)
    )
    return Automaton(edges, found.accepting)


def _narrowed(
    found: Automaton, by: Automaton | tuple[int, int | None], keyword: str, give_up: Callable[[str], object]
) -> Automaton:
    """`found` intersected with an automaton or with lengths; if that has too many states, `keyword` is given up."""
    try:
        return automaton.intersect(found, by if isinstance(by, Automaton) else automaton.lengths(*by))
    except TooLarge:
        give_up(keyword)
        return found


def _automata(shape: String, give_up: Callable[[str], object]) -> Iterator[Automaton]:
    for text, holds in sorted(shape.patterns):
        try:
            found = pattern.matching(text, narrow=holds)
            yield found if holds else automaton.subtract(EVERYTHING, found)
        except (pattern.NotRegular, TooLarge):
            give_up("pattern")
    for name in sorted(shape.formats & PATTERNS.keys()):
        yield pattern.matching(PATTERNS[name])
