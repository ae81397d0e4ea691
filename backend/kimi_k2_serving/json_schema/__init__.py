"""Compiles a JSON Schema to the rules of a grammar, and validates what such rules do not enforce. It knows no model."""
