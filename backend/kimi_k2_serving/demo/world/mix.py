"""Which sample how often: the endless mix of a split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from kimi_k2_serving.demo.world import agent, calling, copying, small_talk, strange
from kimi_k2_serving.demo.world.draw import Draw
from kimi_k2_serving.demo.world.sample import Sample, Split

# Copying and calling are most of it.
_MIX = (
    (calling.single, 26),
    (calling.parallel, 8),
    (calling.missing, 5),
    (calling.unfit, 7),
    (calling.chosen, 2),
    (calling.explore, 3),
    (calling.look_up, 5),
    (strange.call, 10),
    (agent.agent, 8),
    (copying.copy, 9),
    (copying.remember, 2),
    (copying.arithmetic, 5),
    (small_talk.chat, 6),
    (small_talk.off_topic, 4),
    (small_talk.tongue, 3),
    (small_talk.persona, 2),
)
# How many have small talk before them.
_PRECEDED = 0.1
_MAKERS = tuple(make for make, _ in _MIX)
_WEIGHTS = tuple(accumulate(weight for _, weight in _MIX))


def samples(split: Split, seed: int) -> Iterator[Sample]:
    """Endless samples of a split."""
    draw = Draw(split, seed)
    while True:
        sample = draw.weighted(_MAKERS, _WEIGHTS)(draw)
        yield small_talk.preceded(draw, sample) if draw.flip(_PRECEDED) else sample
