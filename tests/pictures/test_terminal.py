"""The picture of a terminal shows what the program wrote, when it wrote it, and no more."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from tests.pictures.terminal import COLORS, LAST_SECONDS, LONGEST_PAUSE, NAMESPACE, Frame, Typed, draw, record, spans

SVG = f"{{{NAMESPACE}}}"


def texts(svg: str) -> list[str]:
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def program(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_colours_and_moves_of_the_cursor_are_drawn() -> None:
    frames = record(program(r"print('\x1b[32mgreen\x1b[0m <plain>\n\x1b[1A\x1b[20Cmoved')"), [])
    assert frames[0].lines[0][0][1].startswith("$ ")
    assert ((COLORS["green"], "green"), (COLORS["default"], " <plain>       moved")) in frames[-1].lines
    assert texts(draw(frames, "t"))[-1] == "green <plain>       moved"


def test_what_is_typed_waits_for_the_prompt_and_is_seen() -> None:
    frames = record(
        program("import time; time.sleep(0.3); print('you wrote', input('na' + 'me: '))"), [Typed("name: ", "hello")]
    )
    shown = texts(draw(frames, "t"))
    assert "name: hello" in shown
    assert "you wrote hello" in shown


def test_a_long_pause_is_shortened_and_a_short_one_is_kept() -> None:
    code = "import time; print('a', flush=True); time.sleep(0.5); print('b', flush=True); time.sleep(2); print('c')"
    frames = record(program(code), [])
    at = {line[0][1]: frame.at for frame in reversed(frames) for line in frame.lines if line}
    assert 0.4 <= at["b"] - at["a"] < 1.4
    assert at["c"] - at["b"] <= LONGEST_PAUSE + 0.001


def test_a_program_that_fails_makes_no_picture() -> None:
    with pytest.raises(SystemExit):
        record(program("raise SystemExit(3)"), [])


def test_a_row_is_shown_from_its_first_to_its_last_moment() -> None:
    one, two = (("#fff", "one"),), (("#fff", "two"),)
    blank = ((),) * 25
    frames = [Frame(0.0, (one, *blank)), Frame(1.0, (two, *blank)), Frame(2.0, (two, *blank))]
    assert list(spans(frames)) == [(0, one, 0.0, 1.0), (0, two, 1.0, None)]
    svg = draw(frames, "a <title>")
    assert f"animation:{2 + LAST_SECONDS:.2f}s" in svg
    assert "a &lt;title&gt;" in svg
