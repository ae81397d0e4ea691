"""Where K2's reference tokenizer cuts text before it encodes: exact for pathological input, free for the rest.

It first cuts every 400,000 characters, then inside each part every run of more than 25,000 whitespace or non-whitespace
characters. The cuts change ids, so they are part of the format (rule T3 of docs/kimi_k2_format.md). Linear.
"""

from __future__ import annotations

from collections.abc import Iterator

PART_CHARACTERS = 400_000
RUN_CHARACTERS = 25_000


def pieces(text: str, *, part_length: int = PART_CHARACTERS, run_length: int = RUN_CHARACTERS) -> Iterator[str]:
    """`text` in the pieces that are encoded one by one; they join to it. Empty text has none."""
    for start in range(0, len(text), part_length):
        part = text[start : start + part_length]
        begin = 0
        for cut in _cuts(part, run_length):
            yield part[begin:cut]
            begin = cut
        yield part[begin:]


def _cuts(part: str, length: int) -> Iterator[int]:
    """Positions inside runs of more than `length`, that far apart from each run's start.

    Such a run covers a multiple of `length`, so looking around those few finds all of them; no character is looked at
    more than twice.
    """
    end = 0
    for probe in range(length, len(part), length):
        if probe < end:
            continue
        space = part[probe].isspace()
        begin = probe
        while begin > end and part[begin - 1].isspace() == space:
            begin -= 1
        end = probe
        while end < len(part) and part[end].isspace() == space:
            end += 1
        yield from range(begin + length, end, length)
