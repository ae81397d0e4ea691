"""The model classes that K2 needs, for SGLANG_EXTERNAL_MODEL_PACKAGE: SGLang imports these instead of all of its own.

Other architectures still work: for a class that is missing here, SGLang loads its whole registry.
"""
