"""Records a program in a terminal and draws what it showed, as an SVG that plays once and stops at the last screen.

    python -m tests.pictures.terminal docs/terminal.svg [--type WAIT_FOR TEXT]... -- COMMAND...

The first line is the command itself. `--type` waits until WAIT_FOR is on the screen, then types TEXT and Enter, key by
key. The pauses are the real ones, but none is longer than LONGEST_PAUSE. Nothing is edited: the picture has what the
program wrote to its terminal.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

COLUMNS, ROWS = 96, 26
FRAME_SECONDS = 0.04
KEY_SECONDS = 0.04
LONGEST_PAUSE = 1.5
SILENCE_SECONDS = 60.0
LAST_SECONDS = 4.0
CELL_WIDTH, CELL_HEIGHT, MARGIN, BAR = 8.4, 19, 16, 34
NAMESPACE = "http://www.w3.org/2000/svg"
# Colours of a terminal that is dark in light pages, too.
COLORS = {
    "default": "#d7dde3",
    "black": "#5c6670",
    "red": "#ff9b94",
    "green": "#7fd39a",
    "brown": "#e3c078",
    "blue": "#86b8f0",
    "magenta": "#d6a4ea",
    "cyan": "#7ed0d4",
    "white": "#f3f6f8",
}

Line = tuple[tuple[str, str], ...]
"""The runs of one row: colour and text."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A screen from `at` seconds on."""

    at: float
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Typed:
    wait_for: str
    text: str


class Terminal:
    """A program in a pseudo-terminal, and the screen that it has drawn."""

    def __init__(self, command: Sequence[str]) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._stream.feed(f"$ {shlex.join(command)}\r\n".encode())
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.screen.write_process_input = self.type  # answers to questions such as where the cursor is

    def type(self, data: str) -> None:
        os.write(self._master, data.encode())

    def listen(self, seconds: float) -> bool:
        """Draw what arrives within `seconds`. Returns False when the program has closed the terminal."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            self._stream.feed(os.read(self._master, 1 << 16))
        except OSError:
            return False
        return True

    def shows(self, text: str) -> bool:
        return any(text in row for row in self.screen.display)

    def lines(self) -> tuple[Line, ...]:
        rows = []
        for number in range(ROWS):
            cells = [self.screen.buffer[number][column] for column in range(COLUMNS)]
            # The second cell of a wide character is empty.
            runs = [(color, "".join(cell.data for cell in run)) for color, run in groupby(cells, color_of)]
            rows.append(trimmed(runs))
        return tuple(rows)


def color_of(cell: pyte.screens.Char) -> str:
    name = cell.fg.removeprefix("bright")
    if name == "default" and not cell.bold:
        return COLORS["default"]
    return COLORS["white"] if name == "default" else COLORS.get(name, f"#{name}")


def trimmed(runs: Sequence[tuple[str, str]]) -> Line:
    kept = list(runs)
    while kept and not kept[-1][1].strip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0], kept[-1][1].rstrip())
    return tuple(kept)


def record(command: Sequence[str], script: Sequence[Typed]) -> list[Frame]:
    """The frames of the program's run, until it ends. Fails if it ends with an error or before all of `script`."""
    terminal = Terminal(command)
    clock, frames, waiting = 0.0, [Frame(0.0, terminal.lines())], list(script)
    keys: Iterator[str] = iter(())
    changed = time.monotonic()
    while time.monotonic() - changed < SILENCE_SECONDS:
        begun = time.monotonic()
        alive = terminal.listen(FRAME_SECONDS)
        if (key := next(keys, None)) is not None:
            time.sleep(KEY_SECONDS)
            terminal.type(key)
        elif waiting and terminal.shows(waiting[0].wait_for):
            keys = iter([*waiting.pop(0).text, "\r"])
        lines = terminal.lines()
        if lines != frames[-1].lines:
            clock = min(clock + time.monotonic() - begun, frames[-1].at + LONGEST_PAUSE)
            frames.append(Frame(clock, lines))
            changed = time.monotonic()
        else:
            clock += time.monotonic() - begun
        if not alive:
            break
    code = terminal.process.wait(SILENCE_SECONDS)
    if code or waiting:
        raise SystemExit(f"the program ended with {code}, and {len(waiting)} texts were not typed")
    return frames


def draw(frames: Sequence[Frame], title: str) -> str:
    """The SVG. Each row that changes is drawn once for each content, and shown while the screen had it."""
    length = frames[-1].at + LAST_SECONDS
    height = max(number for frame in frames for number, line in enumerate(frame.lines) if line) + 1
    width = round(COLUMNS * CELL_WIDTH + 2 * MARGIN)
    total = BAR + height * CELL_HEIGHT + MARGIN
    texts, styles = [], []
    for number, (row, line, begin, end) in enumerate(sorted(spans(frames))):
        y = BAR + (row + 0.75) * CELL_HEIGHT
        runs = "".join(f'<tspan fill="{color}">{escape(text, quote=False)}</tspan>' for color, text in line)
        kind = ""
        if end is not None or begin > 0:
            kind = f' class="{"l" if end is None else "p"}" style="animation-name:k{number}"'
        texts.append(f'<text x="{MARGIN}" y="{y:g}"{kind}>{runs}</text>')
        if kind:
            first = f"0%{{opacity:0}}{100 * begin / length:.2f}%{{opacity:1}}"
            last = "" if end is None else f"{100 * end / length:.2f}%{{opacity:0}}"
            styles.append(f"@keyframes k{number}{{{first}{last}100%{{opacity:{int(end is None)}}}}}")
    return (
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {width} {total}" width="{width}" height="{total}" role="img">'
        f"<title>{escape(title)}</title><style>"
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
        f".p,.l{{animation:{length:.2f}s step-end both}}.p{{opacity:0}}"
        "@media (prefers-reduced-motion:reduce){.p,.l{animation:none}}"
        f"{''.join(styles)}</style>"
        f'<rect width="{width}" height="{total}" rx="10" fill="#171c22"/>'
        '<circle cx="20" cy="17" r="6" fill="#5c6670"/><circle cx="40" cy="17" r="6" fill="#5c6670"/>'
        '<circle cx="60" cy="17" r="6" fill="#5c6670"/>'
        f"{''.join(texts)}</svg>\n"
    )


def spans(frames: Sequence[Frame]) -> Iterator[tuple[int, Line, float, float | None]]:
    """Each content of each row, with the seconds from which and until which it was there (None: until the end)."""
    for row in range(ROWS):
        for line, group in groupby(enumerate(frames), lambda each: each[1].lines[row]):  # noqa: B023 - used at once
            members = list(group)
            after = members[-1][0] + 1
            if line:
                yield row, line, members[0][1].at, frames[after].at if after < len(frames) else None


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pictures.terminal", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", nargs=2, action="append", default=[], metavar=("WAIT_FOR", "TEXT"))
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(argv)
    frames = record(given.command, [Typed(*each) for each in given.type])
    given.file.write_text(draw(frames, f"A terminal: {shlex.join(given.command)}"), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
