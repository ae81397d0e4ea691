"""The demo checkpoint: K2's architecture at toy size, built locally from the files of this package alone.

`python -m kimi_k2_serving.demo --output DIR`. The same sources give the same bytes on every machine. The weights are
random, so the answers are noise. Prompts, ids, router, attention and files differ from K2's only in size.
"""
