"""Packages as in SGLang."""
