"""Trains the demo model: the network in torch, batches from the world's text, the loop, and its files.

Only `scripts/train-demo` and its tests import this package. The server loads the result through SGLang.
"""
