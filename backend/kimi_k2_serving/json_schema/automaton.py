"""Deterministic automata over code points, the form in which patterns, lengths, ranges and multiples are intersected.

An automaton is built from an expression of characters (no rules, no tokens). `strings` writes it as right-linear
grammar rules, for which xgrammar computes one token mask per state. Every construction but `words` raises TooLarge
beyond STATES states: a deterministic automaton may need 2^n of them for a pattern of length n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from kimi_k2_serving.json_schema.ebnf import MAX_CODE_POINT, Alt, Expression, Interval, OneOf, Repeat, Seq, Terminal

STATES = 3_000

Edge = tuple[int, int, int]
"""First code point, last code point, target state."""


class TooLarge(Exception):
    """The automaton would have more than STATES states; the caller relaxes the keyword that needs it."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """State 0 is the start. Edges of a state are sorted and disjoint; a code point without an edge is refused."""

    edges: tuple[tuple[Edge, ...], ...]
    accepting: frozenset[int]

    def accepts(self, text: str) -> bool:
        state: int | None = 0
        for character in text:
            state = next((t for low, high, t in self.edges[state or 0] if low <= ord(character) <= high), None)
            if state is None:
                return False
        return state in self.accepting

    @property
    def empty(self) -> bool:
        return not self.accepting

    @property
    def shortest(self) -> int:
        """The length of the shortest accepted text; 0 if there is none."""
        level, seen, steps = {0}, {0}, 0
        while level and not level & self.accepting:
            level = {target for state in level for _, _, target in self.edges[state]} - seen
            seen |= level
            steps += 1
        return steps if level else 0


def build_automaton(body: Expression) -> Automaton:
    """The automaton of an expression of characters; raises TooLarge."""
    nfa = _Nfa()
    end = nfa.add(body, nfa.state())
    return _determinise(nfa, end)


def lengths(least: int, most: int | None) -> Automaton:
    """Every text of `least` to `most` code points."""
    last = least if most is None else most
    if last >= STATES:
        raise TooLarge
    step: list[tuple[Edge, ...]] = [((0, MAX_CODE_POINT, i + 1),) for i in range(last)]
    step.append(((0, MAX_CODE_POINT, last),) if most is None else ())
    return Automaton(tuple(step), frozenset(range(least, last + 1)))


def words(texts: Iterable[str]) -> Automaton:
    """Exactly these texts, as the tree of their prefixes."""
    children: list[dict[str, int]] = [{}]
    ends: set[int] = set()
    for text in texts:
        state = 0
        for character in text:
            if character not in children[state]:
                children[state][character] = len(children)
                children.append({})
            state = children[state][character]
        ends.add(state)
    edges = tuple(tuple((ord(c), ord(c), t) for c, t in sorted(node.items())) for node in children)
    return reduce(Automaton(edges, frozenset(ends)))


def intersect(left: Automaton, right: Automaton) -> Automaton:
    return _product(left, right, lambda a, b: a and b)


def subtract(left: Automaton, right: Automaton) -> Automaton:
    return _product(left, right, lambda a, b: a and not b)


def _product(left: Automaton, right: Automaton, keep: Callable[[bool, bool], bool]) -> Automaton:
    """The pairs of states that a text can reach; the right state is None once `right` has refused the text."""
    numbers: dict[tuple[int, int | None], int] = {(0, 0): 0}
    waiting: list[tuple[int, int | None]] = [(0, 0)]
    edges: list[tuple[Edge, ...]] = []
    accepting: set[int] = set()
    needs_right = keep(True, False) is False
    for a, b in waiting:
        if keep(a in left.accepting, b in right.accepting):
            accepting.add(numbers[a, b])
        found: list[Edge] = []
        for low, high, x in left.edges[a]:
            for first, last, y in _cover(right.edges[b] if b is not None else (), low, high):
                if y is None and needs_right:
                    continue
                if (x, y) not in numbers:
                    numbers[x, y] = len(numbers)
                    waiting.append((x, y))
                    if len(numbers) > STATES:
                        raise TooLarge
                found.append((first, last, numbers[x, y]))
        edges.append(tuple(found))
    return reduce(Automaton(tuple(edges), frozenset(accepting)))


def _cover(edges: Iterable[Edge], low: int, high: int) -> list[tuple[int, int, int | None]]:
    """The interval [low, high] cut into pieces with one target each; None for a piece that no edge covers."""
    pieces: list[tuple[int, int, int | None]] = []
    at = low
    for first, last, target in edges:
        if last < at or first > high:
            continue
        if first > at:
            pieces.append((at, first - 1, None))
        pieces.append((max(first, at), min(last, high), target))
        at = last + 1
    if at <= high:
        pieces.append((at, high, None))
    return pieces


class _Nfa:
    """A nondeterministic automaton: the steps of each state without a character (`silent`) and with one (`edges`)."""

    def __init__(self) -> None:
        self.silent: list[list[int]] = []
        self.edges: list[list[Edge]] = []

    def state(self) -> int:
        if len(self.silent) >= 4 * STATES:
            raise TooLarge
        self.silent.append([])
        self.edges.append([])
        return len(self.silent) - 1

    def add(self, body: Expression, start: int) -> int:
        """Append `body` after `start`; returns the state after it."""
        match body:
            case Terminal(text):
                for character in text:
                    start = self._step(start, ((ord(character), ord(character)),))
                return start
            case OneOf(intervals):
                return self._step(start, intervals)
            case Seq(parts):
                for part in parts:
                    start = self.add(part, start)
                return start
            case Alt(options):
                end = self.state()
                for option in options:
                    self.silent[self.add(option, self._fork(start))].append(end)
                return end
            case Repeat(inner, least, most):
                return self._repeat(inner, least, most, start)
            case _:
                raise TypeError("an automaton can only be built from characters")

    def _repeat(self, inner: Expression, least: int, most: int | None, start: int) -> int:
        for _ in range(least):
            start = self.add(inner, start)
        if most is None:
            loop = self._fork(start)
            self.silent[self.add(inner, loop)].append(loop)
            return self._fork(loop)
        end = self.state()
        for _ in range(most - least):
            self.silent[start].append(end)
            start = self.add(inner, start)
        self.silent[start].append(end)
        return end

    def _fork(self, start: int) -> int:
        state = self.state()
        self.silent[start].append(state)
        return state

    def _step(self, start: int, intervals: Iterable[Interval]) -> int:
        end = self.state()
        self.edges[start].extend((low, high, end) for low, high in intervals)
        return end

    def closure(self, start: int) -> frozenset[int]:
        seen = {start}
        waiting = [start]
        while waiting:
            for target in self.silent[waiting.pop()]:
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return frozenset(seen)


class _Reach:
    """The states of a nondeterministic automaton that others reach silently: those that have edges, and the end."""

    def __init__(self, nfa: _Nfa, end: int) -> None:
        self.nfa = nfa
        self.end = end
        self._known: dict[int, frozenset[int]] = {}
        # After each of these any text is accepted, as after the match of a pattern without `$`. Other states reached at
        # the same time no longer matter: without this, `a.*b|c` would double its states with every alternative.
        self._free = frozenset(state for state, edges in enumerate(nfa.edges) if self._loops(state, edges))
        self._all = frozenset((*sorted(self._free)[:1], end))

    def _loops(self, state: int, edges: list[Edge]) -> bool:
        return any(
            (low, high) == (0, MAX_CODE_POINT) and {state, self.end} <= self._one(target) for low, high, target in edges
        )

    def _one(self, state: int) -> frozenset[int]:
        if state not in self._known:
            closure = self.nfa.closure(state)
            self._known[state] = frozenset(each for each in closure if self.nfa.edges[each] or each == self.end)
        return self._known[state]

    def of(self, states: Iterable[int]) -> frozenset[int]:
        found = frozenset[int]().union(*map(self._one, states))
        return self._all if self.end in found and not self._free.isdisjoint(found) else found


def _determinise(nfa: _Nfa, end: int) -> Automaton:
    reach = _Reach(nfa, end)
    start = reach.of([0])
    numbers = {start: 0}
    waiting = [start]
    edges: list[tuple[Edge, ...]] = []
    for states in waiting:
        found: list[Edge] = []
        for low, high, targets in _sweep([edge for state in states for edge in nfa.edges[state]]):
            goal = reach.of(targets)
            if goal not in numbers:
                numbers[goal] = len(numbers)
                waiting.append(goal)
                if len(numbers) > STATES:
                    raise TooLarge
            found.append((low, high, numbers[goal]))
        edges.append(tuple(found))
    return reduce(Automaton(tuple(edges), frozenset(n for states, n in numbers.items() if end in states)))


def _sweep(edges: list[Edge]) -> list[tuple[int, int, frozenset[int]]]:
    """Overlapping edges as disjoint intervals, each with all its targets."""
    marks = sorted({low for low, _, _ in edges} | {high + 1 for _, high, _ in edges})
    opening: dict[int, list[int]] = {}
    closing: dict[int, list[int]] = {}
    for low, high, target in edges:
        opening.setdefault(low, []).append(target)
        closing.setdefault(high + 1, []).append(target)
    active: dict[int, int] = {}
    pieces = []
    for mark, following in pairwise(marks):
        for target in opening.get(mark, ()):
            active[target] = active.get(target, 0) + 1
        for target in closing.get(mark, ()):
            active[target] -= 1
        targets = frozenset(target for target, count in active.items() if count)
        if targets:
            pieces.append((mark, following - 1, targets))
    return pieces


def reduce(automaton: Automaton) -> Automaton:
    """The smallest equivalent automaton: states that cannot accept are removed, equal states are merged.

    Blocks of states are split until all states of a block have equal edges. A state is visited again only after a block
    that it leads to was split, so a chain of n states, such as `lengths` makes, takes n visits.
    """
    alive = _alive(automaton)
    if 0 not in alive:
        return Automaton(((),), frozenset())
    edges = [[edge for edge in state if edge[2] in alive] for state in automaton.edges]
    sources: list[set[int]] = [set() for _ in edges]
    for state in alive:
        for _, _, target in edges[state]:
            sources[target].add(state)
    block = [int(state in automaton.accepting) if state in alive else -1 for state in range(len(edges))]
    members = [alive - automaton.accepting, alive & automaton.accepting]
    pending = set(alive)
    while pending:
        by_block: dict[int, set[int]] = {}
        for state in pending:
            by_block.setdefault(block[state], set()).add(state)
        # All states of a round are compared by the blocks as they were before the round.
        leaving = [part for name, looked in by_block.items() for part in _parts(looked, edges, block, members[name])]
        for part in leaving:
            members[block[next(iter(part))]] -= part
            for state in part:
                block[state] = len(members)
            members.append(part)
        pending = {source for part in leaving for state in part for source in sources[state]}
    return _quotient(edges, block, automaton.accepting)


def _parts(looked: set[int], edges: list[list[Edge]], block: list[int], members: set[int]) -> list[set[int]]:
    """The sets of states that leave their block, one set per different edges of the states in `looked`.

    States outside `looked` are still equal and stay, with those in it that equal them; else the largest set stays.
    """
    parts: dict[tuple[Edge, ...], set[int]] = {}
    for state in looked:
        parts.setdefault(_merged(edges[state], block), set()).add(state)
    if len(looked) < len(members):
        other = next(state for state in members if state not in looked)
        parts.pop(_merged(edges[other], block), None)
    else:
        parts.pop(max(parts, key=lambda form: len(parts[form])))
    return list(parts.values())


def _quotient(edges: list[list[Edge]], block: list[int], accepting: frozenset[int]) -> Automaton:
    """One state for each block that the start reaches, numbered in the order in which they are reached."""
    example: dict[int, int] = {}
    for state, name in enumerate(block):
        example.setdefault(name, state)
    numbers = {block[0]: 0}
    waiting = [block[0]]
    result: list[tuple[Edge, ...]] = []
    for name in waiting:
        found = []
        for low, high, target in _merged(edges[example[name]], block):
            if target not in numbers:
                numbers[target] = len(numbers)
                waiting.append(target)
            found.append((low, high, numbers[target]))
        result.append(tuple(found))
    return Automaton(tuple(result), frozenset(n for name, n in numbers.items() if example[name] in accepting))


def _merged(edges: list[Edge], block: list[int]) -> tuple[Edge, ...]:
    """The edges with blocks as targets; adjacent edges to the same block are joined."""
    found: list[Edge] = []
    for low, high, target in edges:
        if found and found[-1][1] + 1 == low and found[-1][2] == block[target]:
            found[-1] = (found[-1][0], high, block[target])
        else:
            found.append((low, high, block[target]))
    return tuple(found)


def _alive(automaton: Automaton) -> set[int]:
    """The states from which an accepting state can be reached."""
    sources: dict[int, list[int]] = {}
    for state, edges in enumerate(automaton.edges):
        for _, _, target in edges:
            sources.setdefault(target, []).append(state)
    alive = set(automaton.accepting)
    waiting = list(alive)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in alive:
                alive.add(source)
                waiting.append(source)
    return alive
