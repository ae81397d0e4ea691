"""Patterns, ranges and characters: the automata say what they should, and xgrammar accepts what they say."""

from __future__ import annotations

import json
import re
import warnings
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xgrammar import GrammarMatcher

from kimi_k2_serving.json_schema import automaton, ebnf, formats, numbers, pattern
from kimi_k2_serving.json_schema.automaton import Automaton
from kimi_k2_serving.json_schema.shapes import Number, RangeEnd
from kimi_k2_serving.json_schema.validate import exactly
from tests.grammar.prover import Prover

PATTERNS = [
    r"^[a-z]+$",
    "abc",
    r"^\d{3}-\d{4}$",
    r"^(?=.*[A-Z])(?=.*\d).{8,20}$",
    r"^(?!tmp)[a-z]+$",
    r"^(foo|bar)+$|^x",
    r"^\S+\s\W$",
    r"^[^/]*$",
    r"^.{1,20}$",
    r"a{2,}b?",
    r"^[\u4e00-\u9fa5]{2,4}$",
    r"^\.\*\+$",
    r"^[\w.-]+@[\w-]+\.[a-z]{2,3}$",
    "^$",
    "(^a$)|(^b$)",
    "(^$|^https?://.+)",
    "^(?:$|x)",
    "(?:^ab$)",
    "^(foo$|bar)",
    "(^|,)x(,|$)",
    "(^a|(b|(^x)))?z",
    "^(^a|b)$",
]


def sample(found: Automaton, dice: Random) -> str | None:
    """A text of the language, or None if this try ran into the length limit."""
    state, text = 0, ""
    while len(text) < 60:
        if state in found.accepting and dice.random() < 0.3:
            return text
        if not found.edges[state]:
            return text if state in found.accepting else None
        low, high, state = dice.choice(found.edges[state])
        text += chr(dice.randint(low, min(high, low + 80)))
    return text if state in found.accepting else None


@pytest.mark.parametrize("source", PATTERNS)
def test_a_narrow_pattern_admits_only_what_python_finds(source: str) -> None:
    found = pattern.matching(source)
    texts = [text for text in (sample(found, Random(seed)) for seed in range(200)) if text is not None]
    assert texts
    assert all(re.search(source, text) for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("source", PATTERNS)
@settings(deadline=None)
@given(text=st.text(alphabet="abxz019 -./@A\n漢", max_size=10))
def test_a_wide_pattern_admits_all_that_python_finds(source: str, text: str) -> None:
    if re.search(source, text):
        assert pattern.matching(source, narrow=False).accepts(text)


@pytest.mark.parametrize(
    "source", [r"(a)\1", r"\bword", "a(?=b)", "(", "a{3,2}", "[z-a]", "*", "(?<=a)b", "a++", r"\q", "(^a)+", "a(^b)"]
)
def test_what_is_not_regular_is_said_so(source: str) -> None:
    with pytest.raises(pattern.NotRegular):
        pattern.matching(source)


WORDS = "^lin|^lnx$|^win|^ms.*win|^microsoft.*w|^oob$|^vmware|^esx|^blade|vms|tru64|osf|hp.*ux|aix|rs6000|^sun|sol"


@settings(deadline=None)
@given(text=st.lists(st.sampled_from([*"linx", "ms", "win", "hp", "ux", "vms", "so", "l", "a", "\n"]), max_size=6))
def test_words_to_be_found_anywhere_take_few_states(text: list[str]) -> None:
    """What was found already is not told apart from what may still be found: that took 2^n states, and 2 s."""
    found = pattern.matching(WORDS)
    assert len(found.edges) < 200
    joined = "".join(text)
    if "\n" not in joined:
        assert found.accepts(joined) == bool(re.search(WORDS, joined))


@pytest.mark.parametrize("source", ["^.{0,5000}$", "(a|b)*a(a|b){15}", "((a{100}){100}){100}"])
def test_a_pattern_that_would_explode_is_given_up(source: str) -> None:
    with pytest.raises(automaton.TooLarge):
        pattern.matching(source)


@pytest.mark.parametrize("name", formats.PATTERNS)
def test_formats_have_texts(name: str) -> None:
    assert not pattern.matching(formats.PATTERNS[name]).empty


def test_dates_know_months_and_leap_years() -> None:
    dates = pattern.matching(formats.PATTERNS["date"])
    assert all(map(dates.accepts, ("2024-02-29", "2023-12-31", "2023-04-30")))
    assert not any(map(dates.accepts, ("2023-02-29", "2023-04-31", "1900-02-29", "2023-13-01")))


def test_regexes_compile_and_have_groups() -> None:
    expressions = pattern.matching(formats.PATTERNS["regex"])
    usual = (r"^foo\d+$", r"[a-z_]+@[^\s]*\.com", "(?:a|b)+?", "a(bc|d)*|e{2,}", "漢?", "")
    assert all(map(expressions.accepts, usual))
    assert not any(map(expressions.accepts, ("a**", "[z-a]", "(", "a{3,2}", "\\", "[]", "(?<=a)b", r"\1")))
    with warnings.catch_warnings(action="error"):
        texts = [text for text in (sample(expressions, Random(seed)) for seed in range(3000)) if text is not None]
        assert len({re.compile(text).pattern for text in texts}) > 1000


def test_templates_name_variables() -> None:
    templates = pattern.matching(formats.PATTERNS["uri-template"])
    assert all(map(templates.accepts, ("/users/{id}", "x:/{+base}{/path:3,rest*}{?q,lang}", "%20", "")))
    assert not any(map(templates.accepts, ("{", "{}", "a}", "{a b}", "{a,}", "%2", "a b", "{a:0}")))


DECIMALS = st.decimals(min_value=-1000, max_value=1000, places=2).map(Fraction)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    low=st.none() | st.builds(RangeEnd, DECIMALS, st.booleans()),
    high=st.none() | st.builds(RangeEnd, DECIMALS, st.booleans()),
    integer=st.sampled_from([True, None, False]),
    multiples=st.frozensets(st.sampled_from([Fraction(3), Fraction(1, 4), Fraction(7), Fraction(1, 100)]), max_size=2),
    excluded=st.frozensets(st.sampled_from([Fraction(0), Fraction(5), Fraction(1, 2)]), max_size=2),
    seed=st.integers(0, 1000),
)
def test_every_number_of_a_language_keeps_its_bounds(
    low: RangeEnd | None,
    high: RangeEnd | None,
    integer: bool | None,
    multiples: frozenset[Fraction],
    excluded: frozenset[Fraction],
    seed: int,
) -> None:
    found = numbers.number_language(Number(integer, low, high, multiples, frozenset(), excluded))
    for i in range(20):
        text = sample(found, Random(seed + i))
        if text is None:
            continue
        value = json.loads(text)
        exact = exactly(value)
        assert low is None or exact > low.value or (exact == low.value and not low.exclusive)
        assert high is None or exact < high.value or (exact == high.value and not high.exclusive)
        assert all((exact / step).denominator == 1 for step in multiples)
        assert exact not in excluded
        assert integer is None or (value == int(value)) == integer


@settings(max_examples=60, deadline=None)
@given(value=st.integers(-(10**15), 10**15), low=st.integers(-999, 999), size=st.integers(0, 10**6))
def test_integer_ranges_are_exact(value: int, low: int, size: int) -> None:
    found = numbers.number_language(Number(True, RangeEnd(Fraction(low)), RangeEnd(Fraction(low + size))))
    for candidate in (value, low, low + size, low - 1, low + size + 1, 0):
        assert found.accepts(str(candidate)) == (low <= candidate <= low + size)


CODES = st.integers(0, 0x10FFFF).filter(lambda code: not 0xD800 <= code <= 0xDFFF)


@settings(max_examples=60, deadline=None)
@given(ends=st.tuples(CODES, CODES), others=st.lists(CODES, max_size=8))
def test_xgrammar_accepts_exactly_the_characters_of_a_range(
    prover: Prover, ends: tuple[int, int], others: list[int]
) -> None:
    """Written as one range, it loses some: U+D000 to U+D7FF of U+0800 to U+D7FF."""
    low, high = sorted(ends)
    grammar = prover.grammars.compile_grammar(ebnf.write_grammar({"root": ebnf.OneOf(((low, high),))}))
    near = [code for code in (low - 1, low, high, high + 1, 0xD000, 0xD7FF) if 0 <= code <= 0x10FFFF]
    for code in (*near, *others):
        if not 0xD800 <= code <= 0xDFFF:
            matcher = GrammarMatcher(grammar)
            taken = all(matcher.accept_token(byte) for byte in chr(code).encode())
            assert taken == (low <= code <= high)
