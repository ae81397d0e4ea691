"""Cuts text where K2's reference tokenizer cuts it before encoding.

It first cuts after every 400,000 characters. Then, in each part, it cuts every run of more than 25,000 whitespace or
non-whitespace characters. Cuts change the ids, so they are part of the format (rule T3 of docs/kimi_k2_format.md).
Linear; ordinary text has no such run.
"""

from __future__ import annotations

from collections.abc import Iterator

PART_CHARACTERS = 400_000
RUN_CHARACTERS = 25_000


def pieces(text: str, *, part_length: int = PART_CHARACTERS, run_length: int = RUN_CHARACTERS) -> Iterator[str]:
    """Split `text` into the pieces that are encoded one by one. Joined, they are `text` again. Empty text has none."""
    for start in range(0, len(text), part_length):
        part = text[start : start + part_length]
        begin = 0
        for cut in _cuts(part, run_length):
            yield part[begin:cut]
            begin = cut
        yield part[begin:]


def _cuts(part: str, length: int) -> Iterator[int]:
    """Positions in runs of more than `length` characters, at multiples of `length` from the start of the run.

    Such a run covers a multiple of `length` in `part`, so it is enough to read the text around those positions. No
    character is read more than twice.
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
