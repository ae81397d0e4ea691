"""core/stops.py and core/phrases.py: stop strings, text that is held back, and whitespace between markers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.events import TextDelta
from kimi_k2_serving.core.phrases import PhraseScanner, Scan
from kimi_k2_serving.core.stops import Content


def first_match(text: str, phrases: list[str]) -> tuple[str, str | None]:
    """A reference that tries every end in turn: the text before the match that ends first, and the longest match."""
    for end in range(len(text) + 1):
        found = [phrase for phrase in phrases if phrase and text[:end].endswith(phrase)]
        if found:
            phrase = max(found, key=len)
            return text[: end - len(phrase)], phrase
    return text, None


def scanned(pieces: list[str], phrases: list[str]) -> tuple[str, str | None]:
    scanner = PhraseScanner(phrases)
    settled = ""
    for piece in pieces:
        text, phrase, _ = scanner.scan(piece)
        settled += text
        if phrase is not None:
            return settled, phrase
    return settled + scanner.release(), None


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(st.text("abc", max_size=30), st.lists(st.text("abc", max_size=5), max_size=5), st.lists(st.integers(0, 99)))
def test_the_first_match_is_found_however_the_text_is_split(text: str, phrases: list[str], cuts: list[int]) -> None:
    assert scanned(split(text, cuts), phrases) == first_match(text, phrases)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4))
def test_text_is_held_only_while_it_may_become_a_phrase(text: str, phrases: list[str]) -> None:
    """Exactly the longest end of the text that is the beginning of a phrase is held back."""
    scanner = PhraseScanner(phrases)
    seen = settled = ""
    for character in text:
        seen += character
        part, phrase, _ = scanner.scan(character)
        if phrase is not None:
            return
        settled += part
        ends = [seen[start:] for start in range(len(seen) + 1)]
        held = next(end for end in ends if any(phrase.startswith(end) for phrase in phrases))
        assert settled + held == seen


def test_a_scanner_continues_behind_a_match() -> None:
    scanner = PhraseScanner(["<b>"])
    assert scanner.scan("a<b>c<b><") == Scan("a", "<b>", 4)
    assert scanner.scan("a<b>c<b><", 4) == Scan("c", "<b>", 8)
    assert scanner.scan("a<b>c<b><", 8) == Scan("", None, 9)
    assert scanner.scan("b>") == Scan("", "<b>", 2)


def test_many_long_phrases_cost_no_more_per_character_than_one() -> None:
    """Sixteen stop strings that almost match again and again: comparing all at each character would take minutes."""
    phrases = ["a" * 1000 + chr(0x100 + n) for n in range(16)]
    text = "a" * 200_000
    scanner = PhraseScanner(phrases)
    started = time.process_time()
    settled = sum(len(scanner.scan(character).text) for character in text)
    assert settled == len(text) - 1000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("stops", [[], [""], ["X"]])
def test_whitespace_waits_for_the_text_it_belongs_to(stops: list[str]) -> None:
    content = Content(stops)
    assert [content.text(piece) for piece in ("\n", " ", "a", " ")] == [[], [], [TextDelta("\n a")], [TextDelta(" ")]]
    assert content.finish() == []


@pytest.mark.parametrize("stops", [[], ["X"]])
def test_whitespace_next_to_a_marker_is_dropped(stops: list[str]) -> None:
    content = Content(stops)
    assert content.text(" ") + content.marker() + content.text("\n") + content.finish() == []


@pytest.mark.parametrize("stops", [[], ["X"]])
def test_whitespace_that_is_the_whole_answer_is_kept(stops: list[str]) -> None:
    content = Content(stops)
    assert content.text("\n") == []
    assert content.finish() == [TextDelta("\n")]


def test_text_that_did_not_become_a_stop_string_is_released_at_a_marker_and_at_the_end() -> None:
    content = Content(["STOP"])
    assert content.text("a ST") == [TextDelta("a ")]
    assert content.marker() == [TextDelta("ST")]
    assert content.text("OP ST") == [TextDelta("OP ")]
    assert content.finish() == [TextDelta("ST")]
    assert content.stop is None


def test_a_stop_string_ends_content() -> None:
    content = Content(["STOP"])
    assert content.text("a STOP b") == [TextDelta("a ")]
    assert content.stop == "STOP"
    assert content.text("more") == []
    assert content.finish() == []


def test_a_stop_string_of_whitespace_matches_in_whitespace_that_is_kept() -> None:
    content = Content(["\n\n"])
    assert content.text("\n\n\n") == []
    assert content.finish() == []
    assert content.stop == "\n\n"


def test_a_phrase_inside_a_longer_one_that_stays_incomplete_is_found() -> None:
    scanner = PhraseScanner(["abcd", "bc"])
    assert scanner.scan("abcx") == Scan("a", "bc", 3)
    scanner = PhraseScanner(["xabcy", "abcz", "c"])
    assert scanner.scan("xab") == Scan("", None, 3)
    assert scanner.scan("c") == Scan("xab", "c", 1)


@pytest.mark.parametrize("stops", [[], ["END"]])
def test_a_new_run_begins_after_a_marker(stops: list[str]) -> None:
    """A6: a run of only whitespace is dropped there, whatever came before the marker."""
    content = Content(stops)
    content.text("Hi")
    content.marker()
    assert content.text(" \n") == []
    assert content.marker() == []
    assert content.finish() == []
