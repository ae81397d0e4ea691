"""The model classes that K2 needs, for SGLANG_EXTERNAL_MODEL_PACKAGE: SGLang then imports these and not all of its own.

Another architecture still works: what is not here makes SGLang load its whole registry, as without this package.
"""
