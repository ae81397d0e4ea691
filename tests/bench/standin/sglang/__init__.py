"""A stand-in for SGLang with scripted outputs, for PYTHONPATH: the real host process runs against it without a model.

It has only what `kimi_k2_serving/engine/host.py` uses, in the form of SGLang 0.5.23.
"""
