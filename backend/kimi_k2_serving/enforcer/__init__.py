"""Grammars compiled in a process that may die, within a budget, and what was given up to stay within it."""
