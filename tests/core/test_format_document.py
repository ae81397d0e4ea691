"""docs/kimi_k2_format.md agrees with the tests and the code: its rules, its cases and its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support import hostile

DOCUMENT = hostile.DOCUMENT.read_text("utf-8")
RULES = re.findall(r"^\*\*([PHTA]\d+)\*\*", DOCUMENT, re.MULTILINE)
CASES = hostile.load("answers") + hostile.load("replays")
# `A12` in prose, `test_t5_p6_...` in a name. Names with three digits, such as H100, are GPUs.
CITED = re.compile(r"\b([PHTA][1-9]\d?)\b(?!\.)|(?<=_)([phta][1-9]\d?)_")
TESTS = ("core", "property", "cli")


def cited_in(text: str) -> set[str]:
    return {(prose or name).upper() for prose, name in CITED.findall(text)}


def cited_by_tests() -> set[str]:
    paths = [path for suite in TESTS for path in (hostile.ROOT / "tests" / suite).glob("test_*.py")]
    cited = {rule for case in CASES for rule in case.rules}
    return cited.union(*(cited_in(path.read_text("utf-8")) for path in paths if path.name != "test_format_document.py"))


def ranges() -> Iterator[tuple[str, int]]:
    """The first and the last rule of each letter."""
    for letter in "PHTA":
        yield letter, max(int(rule[1:]) for rule in RULES if rule[0] == letter)


def test_rules_are_numbered_in_order_and_without_gaps() -> None:
    assert [f"{letter}{number}" for letter, last in ranges() for number in range(1, last + 1)] == RULES


def test_every_rule_is_cited_by_a_test() -> None:
    assert set(RULES) - cited_by_tests() == set()


def test_every_rule_that_tests_and_code_cite_exists() -> None:
    code = [path.read_text("utf-8") for path in (hostile.ROOT / "backend" / "kimi_k2_serving" / "core").glob("*.py")]
    assert cited_by_tests().union(*map(cited_in, code), cited_in(DOCUMENT)) - set(RULES) == set()


def test_the_overview_names_every_rule() -> None:
    overview = DOCUMENT.partition("## The prompt")[0]
    for letter, last in ranges():
        assert {f"{letter}1", f"{letter}{last}"} <= cited_in(overview)


@pytest.mark.parametrize("kind", ["answers", "replays"])
def test_the_tables_show_every_case_as_it_is(kind: str) -> None:
    """`python -m tests.support.hostile CHECKPOINT` writes them."""
    assert hostile.table(kind) in DOCUMENT
    assert hostile.document(DOCUMENT) == DOCUMENT


@pytest.mark.parametrize("kind", ["answers", "replays"])
def test_case_names_are_unique(kind: str) -> None:
    names = [case.name for case in hostile.load(kind)]
    assert len(set(names)) == len(names)


def test_every_case_cites_a_rule_of_answers() -> None:
    for case in CASES:
        assert case.rules
        assert {rule[0] for rule in case.rules} == {"A"}


def test_known_failures_name_cases_of_the_tables() -> None:
    section = DOCUMENT.partition("### In answers")[2].partition("## Every hostile answer")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    named = {name.strip(" |") for row in rows for name in row[2].split("; ")} - {""}
    assert len(rows) > 25
    assert named - {case.name for case in CASES} == set()
