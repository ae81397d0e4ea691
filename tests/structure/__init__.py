"""Checks of the whole tree: the directions of dependencies, sizes, and the truth of documents."""
