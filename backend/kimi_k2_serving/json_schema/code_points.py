"""Sets of code points as intervals: complements, and the classes and categories that a regular expression names."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from itertools import chain, groupby

from kimi_k2_serving.json_schema.ebnf import MAX_CODE_POINT, Interval

ANY: tuple[Interval, ...] = ((0, MAX_CODE_POINT),)
ASCII_CLASSES = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((9, 13), (32, 32)),
}
# The long names of Unicode's general categories, and their short ones.
CATEGORIES = {
    "Letter": "L",
    "Uppercase_Letter": "Lu",
    "Lowercase_Letter": "Ll",
    "Titlecase_Letter": "Lt",
    "Modifier_Letter": "Lm",
    "Other_Letter": "Lo",
    "Mark": "M",
    "Nonspacing_Mark": "Mn",
    "Spacing_Mark": "Mc",
    "Enclosing_Mark": "Me",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Letter_Number": "Nl",
    "Other_Number": "No",
    "Punctuation": "P",
    "punct": "P",
    "Connector_Punctuation": "Pc",
    "Dash_Punctuation": "Pd",
    "Open_Punctuation": "Ps",
    "Close_Punctuation": "Pe",
    "Initial_Punctuation": "Pi",
    "Final_Punctuation": "Pf",
    "Other_Punctuation": "Po",
    "Symbol": "S",
    "Math_Symbol": "Sm",
    "Currency_Symbol": "Sc",
    "Modifier_Symbol": "Sk",
    "Other_Symbol": "So",
    "Separator": "Z",
    "Space_Separator": "Zs",
    "Line_Separator": "Zl",
    "Paragraph_Separator": "Zp",
    "Other": "C",
    "Control": "Cc",
    "cntrl": "Cc",
    "Format": "Cf",
    "Private_Use": "Co",
    "Unassigned": "Cn",
    "Combining_Mark": "M",
}


def complement(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    found: list[Interval] = []
    at = 0
    for low, high in sorted(intervals):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= MAX_CODE_POINT:
        found.append((at, MAX_CODE_POINT))
    return tuple(found)


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same code points in as few intervals as possible, in order."""
    return complement(complement(intervals))


@functools.cache
def categories() -> dict[str, tuple[Interval, ...]]:
    """Unicode's general categories, as `Lu`. Takes a quarter of a second the first time."""
    found: dict[str, list[Interval]] = {}
    at = 0
    for name, run in groupby(map(unicodedata.category, map(chr, range(MAX_CODE_POINT + 1)))):
        end = at + sum(1 for _ in run)
        found.setdefault(name, []).append((at, end - 1))
        at = end
    return {name: tuple(intervals) for name, intervals in found.items()}


@functools.cache
def category(prefix: str) -> tuple[Interval, ...]:
    """A general category such as `Lu`, or all that begin with `L`."""
    return merged(chain.from_iterable(runs for name, runs in categories().items() if name.startswith(prefix)))


@functools.cache
def unicode_class(letter: str) -> tuple[Interval, ...]:
    """What `\\d`, `\\w` and `\\s` match in a validator that reads them as Unicode classes."""
    match letter:
        case "d":
            return category("Nd")
        case "w":
            return merged((*category("L"), *category("N"), (0x5F, 0x5F)))
        case _:
            return merged((*category("Z"), (0x9, 0xD), (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)))


def holds(intervals: Iterable[Interval], code: int) -> bool:
    return any(low <= code <= high for low, high in intervals)
