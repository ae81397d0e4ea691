"""Which goals are recursive: the strongly connected components of the graph of goals, by Tarjan's algorithm.

Each edge may search the stack of open goals, so the time is at worst the number of edges times that of goals.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from kimi_k2_serving.json_schema.shapes import Goal


def components(edges: Mapping[Goal, AbstractSet[Goal]]) -> dict[Goal, int]:
    """The number of its component for each goal that can reach itself; other goals are left out."""
    search = _Search(edges)
    for goal in edges:
        if goal not in search.order:
            search.visit(goal)
    return search.found


class _Search:
    def __init__(self, edges: Mapping[Goal, AbstractSet[Goal]]) -> None:
        self.edges = edges
        self.order: dict[Goal, int] = {}
        self.low: dict[Goal, int] = {}
        self.stack: list[Goal] = []
        self.found: dict[Goal, int] = {}
        self.count = 0

    def visit(self, root: Goal) -> None:
        """Depth first, with an explicit stack: a long chain of goals would exceed the recursion limit."""
        path = [(root, iter(self.edges.get(root, ())))]
        self._enter(root)
        while path:
            goal, targets = path[-1]
            following = next(targets, None)
            if following is None:
                path.pop()
                self._leave(goal)
                if path:
                    parent = path[-1][0]
                    self.low[parent] = min(self.low[parent], self.low[goal])
            elif following not in self.order:
                self._enter(following)
                path.append((following, iter(self.edges.get(following, ()))))
            elif following in self.stack:
                self.low[goal] = min(self.low[goal], self.order[following])

    def _enter(self, goal: Goal) -> None:
        self.order[goal] = self.low[goal] = len(self.order)
        self.stack.append(goal)

    def _leave(self, goal: Goal) -> None:
        if self.low[goal] != self.order[goal]:
            return
        at = self.stack.index(goal)
        members = self.stack[at:]
        del self.stack[at:]
        if len(members) > 1 or goal in self.edges.get(goal, ()):
            self.count += 1
            self.found.update(dict.fromkeys(members, self.count))
