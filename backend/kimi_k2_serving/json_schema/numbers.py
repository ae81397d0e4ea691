"""Numbers as text: ranges, multiples and exclusions as one automaton over decimal digits.

A number without bounds has at most INTEGER_DIGITS digits before the point and SIGNIFICANT after it. One with bounds is
never `-0`; unless it is an integer, it has only as many significant digits as a double keeps apart, so that rounding
by a reader never crosses a bound. Exact: bounds and multiples are fractions, never floats.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import gcd, lcm

from kimi_k2_serving.json_schema import automaton
from kimi_k2_serving.json_schema.automaton import Automaton, TooLarge
from kimi_k2_serving.json_schema.ebnf import EMPTY, Expression, OneOf, Repeat, Seq, Terminal, alt, optional
from kimi_k2_serving.json_schema.shapes import Number, RangeEnd

# Integers of 18 digits fit in 64 bits; decimals of 15 digits survive as a double (DBL_DIG).
INTEGER_DIGITS = 18
SIGNIFICANT = 15
_LISTED = 512
# No number that `free` writes is as large: INTEGER_DIGITS before the point, and two digits of exponent.
_REACH = 10 ** (INTEGER_DIGITS + 99)

_DIGIT = OneOf(((0x30, 0x39),))
_NONZERO = OneOf(((0x31, 0x39),))


def free(integer: bool) -> Expression:
    """Any number of limited length. An integer is never `-0`; others may have an exponent of one or two digits."""
    whole = alt((Terminal("0"), Seq((_NONZERO, Repeat(_DIGIT, 0, INTEGER_DIGITS - 1)))))
    if integer:
        return alt((Terminal("0"), Seq((optional(Terminal("-")), _NONZERO, Repeat(_DIGIT, 0, INTEGER_DIGITS - 1)))))
    fraction = optional(Seq((Terminal("."), Repeat(_DIGIT, 1, SIGNIFICANT))))
    sign = optional(OneOf(((0x2B, 0x2B), (0x2D, 0x2D))))
    exponent = optional(Seq((OneOf(((0x45, 0x45), (0x65, 0x65))), sign, Repeat(_DIGIT, 1, 2))))
    return Seq((optional(Terminal("-")), whole, fraction, exponent))


def reachable(number: Number) -> Number:
    """The number without the bounds that no text of limited length exceeds, like the largest double."""
    low = None if number.low is not None and number.low.value <= -_REACH else number.low
    high = None if number.high is not None and number.high.value >= _REACH else number.high
    excluded = frozenset(value for value in number.excluded if abs(value) < _REACH)
    left = [*excluded, *(limit.value for limit in (low, high) if limit is not None)]
    # A large bound that is left makes texts as long as itself.
    if any(abs(value) >= 10**INTEGER_DIGITS for value in left):
        return number
    return replace(number, low=low, high=high, excluded=excluded)


def number_language(number: Number) -> Automaton:
    """The texts of a number with bounds, multiples or exclusions. Raises TooLarge.

    If counting remainders would take too many states, some of the multiples are listed instead.
    """
    try:
        return _language(number, [_remainders(step) for step in number.multiples])
    except TooLarge:
        if not number.multiples:
            raise
        step = Fraction(lcm(*(m.numerator for m in number.multiples)), gcd(*(m.denominator for m in number.multiples)))
        return _language(number, [_list_of_multiples(step, number)])


def _language(number: Number, multiples: list[Automaton]) -> Automaton:
    whole, places = _digits(number)
    # Multiples come first: their automata are the largest, and small once intersected and reduced.
    found = automaton.build_automaton(_plain(number.integer, whole, places))
    found = automaton.subtract(found, automaton.build_automaton(Seq((Terminal("-0"), _zeros(places)))))
    for each in multiples:
        found = automaton.intersect(each, found)
    if number.low is not None:
        found = automaton.intersect(found, _at_least(number.low, whole))
    if number.high is not None:
        found = automaton.intersect(found, _at_most(number.high, whole))
    for step in number.not_multiples:
        found = automaton.subtract(found, _remainders(step, zeros=True))
    for value in number.excluded:
        found = automaton.subtract(found, _spellings(value, places))
    if number.integer is False:
        found = automaton.subtract(
            found, automaton.build_automaton(Seq((optional(Terminal("-")), _run(), _zeros(places))))
        )
    return found


def _digits(number: Number) -> tuple[int, int]:
    """How many digits the bounds need before and after the point."""
    bounds = [limit.value for limit in (number.low, number.high) if limit is not None] + list(number.excluded)
    longest = max((len(str(abs(int(value)))) for value in bounds), default=1)
    if number.integer:
        return max(INTEGER_DIGITS, longest + (number.high is None or number.low is None)), 0
    written = max((_places(value) for value in (*bounds, *number.multiples, *number.not_multiples)), default=0)
    places = max(1, min(6, SIGNIFICANT - longest), written)
    return max(longest + 1, SIGNIFICANT - places), places


def _places(value: Fraction) -> int:
    """The decimal places of a value that is a finite decimal."""
    places = 0
    while value.denominator != 1:
        value *= 10
        places += 1
    return places


def _plain(integer: bool | None, whole: int, places: int) -> Expression:
    digits = alt((Terminal("0"), Seq((_NONZERO, Repeat(_DIGIT, 0, whole - 1)))))
    if integer or places == 0:
        return Seq((optional(Terminal("-")), digits))
    return Seq((optional(Terminal("-")), digits, optional(Seq((Terminal("."), Repeat(_DIGIT, 1, places))))))


def _run() -> Expression:
    return Repeat(_DIGIT, 1, None)


def _zeros(places: int) -> Expression:
    return optional(Seq((Terminal("."), Repeat(Terminal("0"), 1, max(places, 1)))))


def _spellings(value: Fraction, places: int) -> Automaton:
    """Every text of one number: with and without trailing zeros."""
    sign = "-" if value < 0 else ""
    whole, _, fraction = _decimal(abs(value)).partition(".")
    if fraction:
        return automaton.build_automaton(Seq((Terminal(f"{sign}{whole}.{fraction}"), Repeat(Terminal("0"), 0, places))))
    return automaton.build_automaton(Seq((Terminal(sign + whole), _zeros(places))))


def _decimal(value: Fraction) -> str:
    places = _places(value)
    digits = str(value.numerator * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}" if places else digits


def _at_least(limit: RangeEnd, whole: int) -> Automaton:
    if limit.value > 0 or (limit.value == 0 and not limit.exclusive):
        return automaton.build_automaton(_magnitude_above(limit.value, limit.exclusive, whole))
    if limit.value == 0:
        return automaton.build_automaton(_positive())
    negative = Seq((Terminal("-"), _magnitude_below(-limit.value, limit.exclusive)))
    return automaton.build_automaton(alt((_any_magnitude(), negative)))


def _at_most(limit: RangeEnd, whole: int) -> Automaton:
    if limit.value > 0 or (limit.value == 0 and not limit.exclusive):
        negative = Seq((Terminal("-"), _positive()))
        return automaton.build_automaton(alt((negative, _magnitude_below(limit.value, limit.exclusive))))
    above = _positive() if limit.value == 0 else _magnitude_above(-limit.value, limit.exclusive, whole)
    return automaton.build_automaton(Seq((Terminal("-"), above)))


def _any_magnitude() -> Expression:
    return Seq((_run(), optional(Seq((Terminal("."), _run())))))


def _positive() -> Expression:
    """Any number above zero, without a sign."""
    zeros = Repeat(Terminal("0"), 0, None)
    return alt(
        (
            Seq((_NONZERO, Repeat(_DIGIT, 0, None), optional(Seq((Terminal("."), _run()))))),
            Seq((Terminal("0."), zeros, _NONZERO, Repeat(_DIGIT, 0, None))),
        )
    )


def _split(value: Fraction) -> tuple[str, str]:
    whole, _, fraction = _decimal(value).partition(".")
    return whole, fraction


def _magnitude_above(value: Fraction, exclusive: bool, whole: int) -> Expression:
    """Texts without a sign at or above `value`, which is not negative; integer parts have no leading zero."""
    integer, fraction = _split(value)
    anything = optional(Seq((Terminal("."), _run())))
    options: list[Expression] = []
    if whole > len(integer):
        options.append(Seq((_NONZERO, Repeat(_DIGIT, len(integer), whole - 1), anything)))
    for i, digit in enumerate(integer):
        if digit != "9":
            higher = OneOf(((ord(digit) + 1, 0x39),))
            rest = len(integer) - i - 1
            options.append(Seq((Terminal(integer[:i]), higher, Repeat(_DIGIT, rest, rest), anything)))
    options.append(Seq((Terminal(integer), _fraction_above(fraction, exclusive))))
    return alt(options)


def _fraction_above(fraction: str, exclusive: bool) -> Expression:
    options: list[Expression] = []
    for i, digit in enumerate(fraction):
        if digit != "9":
            higher = OneOf(((ord(digit) + 1, 0x39),))
            options.append(Seq((Terminal("." + fraction[:i]), higher, Repeat(_DIGIT, 0, None))))
    zeros, more = Repeat(Terminal("0"), 0, None), Repeat(_DIGIT, 0, None)
    if fraction:
        options.append(Seq((Terminal("." + fraction), Seq((zeros, _NONZERO, more)) if exclusive else more)))
    else:
        options.append(Seq((Terminal("."), Seq((zeros, _NONZERO, more)) if exclusive else Seq((_DIGIT, more)))))
        options.extend([] if exclusive else [EMPTY])
    return alt(options)


def _magnitude_below(value: Fraction, exclusive: bool) -> Expression:
    integer, fraction = _split(value)
    anything = optional(Seq((Terminal("."), _run())))
    options: list[Expression] = []
    if len(integer) > 1:
        shorter = alt((Terminal("0"), Seq((_NONZERO, Repeat(_DIGIT, 0, len(integer) - 2)))))
        options.append(Seq((shorter, anything)))
    for i, digit in enumerate(integer):
        first = "1" if i == 0 and len(integer) > 1 else "0"
        if digit > first:
            lower = OneOf(((ord(first), ord(digit) - 1),))
            rest = len(integer) - i - 1
            options.append(Seq((Terminal(integer[:i]), lower, Repeat(_DIGIT, rest, rest), anything)))
    options.append(Seq((Terminal(integer), _fraction_below(fraction, exclusive))))
    return alt(options)


def _fraction_below(fraction: str, exclusive: bool) -> Expression:
    zeros, more = Repeat(Terminal("0"), 0, None), Repeat(_DIGIT, 0, None)
    options: list[Expression] = []
    for i, digit in enumerate(fraction):
        if digit > "0":
            lower = OneOf(((0x30, ord(digit) - 1),))
            options.append(Seq((Terminal("." + fraction[:i]), lower, more)))
        if i > 0:
            options.append(Terminal("." + fraction[:i]))
    if fraction:
        options.append(EMPTY)
        options.extend([] if exclusive else [Seq((Terminal("." + fraction), zeros))])
    elif not exclusive:
        options.extend((EMPTY, Seq((Terminal(".0"), zeros))))
    return alt(options)


def _remainders(step: Fraction, *, zeros: bool = False) -> Automaton:
    """The multiples of `step`; with `zeros` also those written with more decimals than the step, all of them 0.

    State 0 is the start, 1 follows a sign, any other stands for a remainder, scaled by 10^places, and the number of
    digits after the point, -1 before the point.
    """
    places = _places(step)
    modulus = (step * 10**places).numerator
    if modulus * (places + 1) > 4 * automaton.STATES:
        raise TooLarge
    numbers: dict[tuple[int, int], int] = {}
    order: list[tuple[int, int]] = []

    def state(remainder: int, place: int) -> int:
        key = (remainder, place)
        if key not in numbers:
            numbers[key] = len(order) + 2
            order.append(key)
        return numbers[key]

    first = tuple((0x30 + d, 0x30 + d, state(d % modulus, -1)) for d in range(10))
    edges: list[tuple[automaton.Edge, ...]] = [((0x2D, 0x2D, 1), *first), first]
    accepting = set()
    for remainder, place in order:
        done = max(place, 0)
        if place != 0 and remainder * 10 ** max(places - done, 0) % modulus == 0:
            accepting.add(numbers[remainder, place])
        found: list[automaton.Edge] = []
        if place == -1 and (places or zeros):
            found.append((0x2E, 0x2E, state(remainder, 0)))
        if place < places or place == -1:
            following = -1 if place == -1 else place + 1
            found.extend((0x30 + d, 0x30 + d, state((remainder * 10 + d) % modulus, following)) for d in range(10))
        elif zeros:
            found.append((0x30, 0x30, state(remainder, max(place, 1))))
        edges.append(tuple(found))
    return automaton.reduce(Automaton(tuple(edges), frozenset(accepting)))


def _list_of_multiples(step: Fraction, number: Number) -> Automaton:
    """The multiples within the range, at most _LISTED in each direction from the one nearest to zero."""
    low = number.low.value if number.low else -step * _LISTED
    high = number.high.value if number.high else max(low, Fraction(0)) + step * _LISTED
    nearest = min(max(Fraction(0), low), high)
    first = -(-nearest // step) if nearest >= 0 else nearest // step
    found = []
    for i in range(_LISTED):
        for value in (step * (first + i), step * (first - i)):
            if low <= value <= high:
                found.append(("-" if value < 0 else "") + _decimal(abs(value)))
    if not found:
        raise TooLarge
    return automaton.words(found)
