"""Draws runs as an SVG: a panel for each kind of time, a bar for each statistic. Every browser shows an SVG, and bars
need no plot library, which would be the client's largest dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from kimi_k2_cli.bench.figures import STATISTICS, BenchFigures, BenchRun

WIDTH, LEFT, BAR, GAP = 760, 60, 16, 4
ROOM = 90  # for the value beside the longest bar
COLOURS = ("#1f6feb", "#d9730d")
TITLE, HEADING = 24, 30


def draw(runs: Sequence[tuple[str, BenchRun]]) -> str:
    """Draw one run, or two side by side, each with a label. A run without figures has no bars."""
    shapes: list[str] = []
    y = TITLE
    for (label, run), colour in zip(runs, COLOURS, strict=False):
        shapes += [_square(16, y - 11, colour), _text(34, y, f"{label}{_told(run)}", weight="bold")]
        y += TITLE
    figures = [run.figures for _, run in runs if run.figures]
    names = [name for name, _ in figures[0].spreads] if figures else []
    for index, name in enumerate(names):
        panel, y = _panel(name, index, figures, y)
        shapes += panel
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" width="{WIDTH}" height="{y + 8}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _told(run: BenchRun) -> str:
    load = run.load
    text = f"{run.tool}, {load.concurrency} at a time, {load.inputs} tokens in, {load.outputs} out"
    if run.figures:
        text += f", {run.figures.requests} requests, {run.figures.requests_per_second:.3g} a second"
        if run.figures.output_tokens_per_second is not None:
            text += f", {run.figures.output_tokens_per_second:.4g} tokens/s"
    return text


def _panel(name: str, index: int, figures: Sequence[BenchFigures], y: int) -> tuple[list[str], int]:
    """The shapes of a panel and the position below it. There are no shapes if no run measured this time."""
    spreads = [each.spreads[index][1] for each in figures]
    longest = max((getattr(spread, each) for spread in spreads if spread for each in STATISTICS), default=0.0)
    if not longest:
        return [], y
    y += HEADING
    shapes = [_text(16, y - 8, f"{name}, milliseconds")]
    for statistic in STATISTICS:
        for spread, colour in zip(spreads, COLOURS, strict=False):
            if spread:
                value = getattr(spread, statistic)
                length = value / longest * (WIDTH - LEFT - ROOM)
                shapes += [
                    _text(16, y + 12, statistic),
                    f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
                    _text(LEFT + length + 6, y + 12, f"{value:,.4g}"),
                ]
            y += BAR + GAP
    return shapes, y


def _square(x: int, y: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{escape(text)}</text>'
