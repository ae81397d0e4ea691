"""Compiles grammars within a budget, in a process that may die, and reports what was given up to stay within it."""
