"""The world that the demo model learns: conversations written by code, in the form that the server renders.

`samples` yields them without end. The same split and seed yield the same samples. What the held-out split draws (names,
values, names of tools, wordings) never occurs in the other: lists are divided by place, made-up words by checksum.
"""

from __future__ import annotations

from kimi_k2_serving.demo.world.mix import samples
from kimi_k2_serving.demo.world.ranks import vocabulary
from kimi_k2_serving.demo.world.sample import Encoded, Sample, Split
from kimi_k2_serving.demo.world.sample import encode_sample as encode

__all__ = ["Encoded", "Sample", "Split", "encode", "samples", "vocabulary"]
