"""The demo checkpoint: K2's architecture at toy size, built on the spot from this package alone.

`python -m kimi_k2_serving.demo --output DIR`. The same sources give the same bytes on every machine. Random weights:
its answers are noise, its prompts, ids, router, attention and files are K2's in every respect but size.
"""
