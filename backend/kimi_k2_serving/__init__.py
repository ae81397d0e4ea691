"""Kimi K2 on Triton: the installed package behind the model repository and the `sglang` backend."""

__version__ = "0.2.0"
