"""What the rules of objects and arrays have in common: where they are collected, and where white space and commas go.

White space is the rule `ws`, in the places where JSON allows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.ebnf import EMPTY, Expression, Ref, Repeat, Seq, Terminal
from kimi_k2_serving.json_schema.normal_form import NormalForm, describe
from kimi_k2_serving.json_schema.shapes import Goal, Number, String

WS = Ref("ws")
COMMA = Seq((Terminal(","), WS))
# How many rules may be used to count the members of one object or array.
STATES = 8_000


class Containers(ABC):
    """Collects the rules of one document. Subclasses write brackets and commas, and the rules of goals."""

    def __init__(self, form: NormalForm, prefix: str, sort_keys: bool, bounds: Bounds) -> None:
        self.form = form
        self.prefix = prefix
        self.sort_keys = sort_keys
        self.bounds = bounds
        self.rules: dict[str, Expression] = {}
        self.relaxed: dict[str, None] = {}
        self._count = 0

    @abstractmethod
    def goal(self, goal: Goal, parent: Goal, level: int) -> Expression: ...

    @abstractmethod
    def key(self, name: str) -> Expression:
        """A declared name with its colon; one rule for all objects of a request."""

    @abstractmethod
    def scalar(self, shape: Number | String, goal: Goal) -> Expression: ...

    @abstractmethod
    def undeclared(self, key: String, goal: Goal) -> Expression:
        """An undeclared name; fewer names, or none, if excluding the declared ones would take too long to compile."""

    def relax(self, goal: Goal, keyword: str) -> None:
        for demand in sorted(goal, key=lambda demand: str(demand.pointer)):
            if demand.holds:
                self.relaxed[describe(self.form.document, (*demand.pointer, keyword))] = None
                return

    def _fresh(self) -> str:
        self._count += 1
        return f"{self.prefix}_c{self._count}"


def following(element: Expression, least: int, most: int | None) -> Expression:
    """A comma and an element, `least` to `most` times."""
    if most is not None and most <= 0:
        return EMPTY
    return Repeat(Seq((COMMA, element)), least, most)
