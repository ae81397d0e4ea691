"""Kimi K2 on Triton: the installed package behind the model repository and the `sglang` backend."""
