"""A stand-in for SGLang with scripted outputs, for PYTHONPATH: the real host process runs against it without a model.

It has only what `kimi_k2_serving/engine/direct_engine.py` and `host.py` use, in the form of SGLang 0.5.23.
"""
