"""The errors that end the launcher. Each prints what is wrong, why, and how to fix it.

A Refusal means that the flags are wrong or the machine is unfit (exit code 2). A Failure means that something failed
that should have worked (exit code 1).
"""

from __future__ import annotations


class Refusal(Exception):
    """`serve: what; why; how to fix`, exit code 2."""

    exit_code = 2

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"serve: {what}; {why}; {fix}")


class Failure(Exception):
    """`serve: what happened and where to look`, exit code 1."""

    exit_code = 1

    def __init__(self, what: str) -> None:
        super().__init__(f"serve: {what}")
        self.detail = what
