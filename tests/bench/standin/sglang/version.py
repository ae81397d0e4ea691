"""The version that the stand-in is like."""

__version__ = "0.5.23"
