"""JSON Schema to grammar rules: the arguments of a call, or a whole JSON answer.

One RuleWriter serves one request: rules that its schemas have in common (white space, free strings, counted
characters, equal numbers) are written once. A goal (see `shapes`) becomes one rule, so a recursive schema becomes a
recursive grammar; where `bounds.max_depth` is set, a recursive rule is written once per level instead.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import replace

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.json_schema import ebnf, literals, numbers, schema, strings
from kimi_k2_serving.json_schema.arrays import Arrays
from kimi_k2_serving.json_schema.automaton import Automaton, TooLarge
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.components import components
from kimi_k2_serving.json_schema.ebnf import EMPTY, NOTHING, Expression, OneOf, Ref, Repeat, Seq, Terminal
from kimi_k2_serving.json_schema.normal_form import NormalForm
from kimi_k2_serving.json_schema.objects import Objects
from kimi_k2_serving.json_schema.schema import SchemaDocument, TooMuch
from kimi_k2_serving.json_schema.shapes import Array, Demand, Goal, Number, Object, Shape, String, Values

# A recursive schema whose smallest value nests more deeply than about this is refused.
_MAX_DEPTH = 64
ROOT: Goal = frozenset({Demand(())})


class RuleWriter:
    """Collects rules; `relaxed` lists, as `path: keyword`, everything in the schemas that the rules do not enforce."""

    def __init__(self, bounds: Bounds, *, sort_keys: bool = False, passes: float = strings.PASSES) -> None:
        self._max_passes = passes
        self.bounds = bounds
        self.sort_keys = sort_keys
        self.rules: dict[str, Expression] = {"ws": self._white_space(), "unicode": strings.UNICODE}
        self._relaxed: dict[str, None] = {}
        self._scalars: dict[Number | String, tuple[Expression, tuple[str, ...]]] = {}
        self._keys: dict[str, str] = {}
        self._documents = 0
        self._spelled: dict[Automaton, Expression] = {}
        self.passes = 0.0

    @property
    def relaxed(self) -> tuple[str, ...]:
        return tuple(self._relaxed)

    def give_up(self, place: str) -> None:
        """Record that the rules do not enforce `place`, a `path: keyword`."""
        self._relaxed[place] = None

    def rule(self, name: str, body: Expression) -> Expression:
        self.rules[name] = body
        return Ref(name)

    def _white_space(self) -> Expression:
        blank = OneOf(((0x09, 0x09), (0x20, 0x20)))
        options: list[Expression] = [EMPTY, Terminal(" ")]
        if self.bounds.indent is not None:
            options.append(Seq((Terminal("\n"), Repeat(blank, 0, self.bounds.indent))))
        return ebnf.alt(options)

    def empty_object(self) -> Expression:
        return Terminal("{}")

    def any_object(self) -> Expression:
        if "any_object" not in self.rules:
            self.rule("any_object", self.object(True, ""))
        return Ref("any_object")

    def object(self, parameters: Mapping[str, Json] | bool, path: str) -> Expression:
        """A JSON object that satisfies the schema. Raises InvalidSchema with `path` or a place inside it."""
        return self._bounded(parameters, path, objects=True, ordered=True)

    def value(self, answer: Mapping[str, Json] | bool, path: str, *, ordered: bool = True) -> Expression:
        """Any JSON value that satisfies the schema; `ordered`: the prompt shows it, perhaps with sorted keys."""
        return self._bounded(answer, path, objects=False, ordered=ordered)

    def _bounded(self, value: schema.Schema, path: str, *, objects: bool, ordered: bool) -> Expression:
        """References may nest a schema more deeply than the interpreter's stack allows; that is refused, too."""
        try:
            return self._document(schema.read_schema(value, path), objects=objects, ordered=ordered)
        except RecursionError:
            raise TooMuch("nests too deeply through its references; simplify it", field=path) from None

    def _document(self, document: SchemaDocument, *, objects: bool, ordered: bool) -> Expression:
        self._documents += 1
        form = NormalForm(document)
        sort_keys = self.sort_keys and ordered
        depth = None if self.bounds.max_depth is None else max(self.bounds.max_depth, 1)
        recursive: Mapping[Goal, int] = {}
        page = _Page(self, form, f"s{self._documents}", sort_keys, None, recursive)
        root = page.root(objects=objects)
        if depth is not None:
            recursive = components(page.edges)
        while True:
            if recursive:
                page = _Page(self, form, f"s{self._documents}", sort_keys, depth, recursive)
                root = page.root(objects=objects)
            kept = ebnf.pruned(ChainMap({"root": root}, page.rules, self.rules), "root")
            if kept:
                break
            if depth is None or depth >= _MAX_DEPTH or not recursive:
                if form.cut:
                    raise TooMuch("combines too many alternatives; simplify it", field=document.path)
                detail = f"admits no {'object' if objects else 'value'}; remove the keywords that exclude all of them"
                raise InvalidSchema(detail, field=document.path)
            depth *= 2
        self.rules.update({name: body for name, body in kept.items() if name != "root"})
        self._relaxed.update(form.relaxed | page.relaxed)
        return kept["root"]

    def key(self, name: str) -> Expression:
        if name not in self._keys:
            self._keys[name] = f"k{len(self._keys)}"
            self.rules[self._keys[name]] = Terminal(json.dumps(name, ensure_ascii=False) + ":")
        return Ref(self._keys[name])

    def scalar(self, shape: Number | String) -> tuple[Expression, tuple[str, ...]]:
        """The expression of a number or string, and the keywords that it does not enforce."""
        if shape not in self._scalars:
            given_up: dict[str, None] = {}
            name = f"v{len(self._scalars)}"
            match shape:
                case Number():
                    body = self._number(shape, name, given_up)
                case String():
                    body = Seq((Terminal('"'), self._string(shape, name, given_up)))
            self._scalars[shape] = (body, tuple(given_up))
        return self._scalars[shape]

    def _number(self, shape: Number, name: str, given_up: dict[str, None]) -> Expression:
        shape = numbers.reachable(shape)
        if shape in (Number(), Number(integer=True)):
            return self.rule("integer" if shape.integer else "number", numbers.free(bool(shape.integer)))
        try:
            found = numbers.number_language(shape)
        except TooLarge:
            ranged = Number(shape.integer, shape.low, shape.high)
            if shape != ranged:
                lost = {"multipleOf": shape.multiples, "not": shape.not_multiples | shape.excluded}
                given_up.update({keyword: None for keyword, values in lost.items() if values})
                return self._number(ranged, name, given_up)
            ends = {"minimum": shape.low, "maximum": shape.high}
            given_up.update({keyword: None for keyword, end in ends.items() if end is not None})
            return self._number(Number(shape.integer), name, given_up)
        return NOTHING if found.empty else strings.string_rule(found, name, self.rules, quoted=False)

    def _string(self, shape: String, name: str, given_up: dict[str, None]) -> Expression:
        """Keywords that would take too long to compile are given up: maxLength, then format, then pattern."""
        plain = replace(shape, most=None)
        shapeless = replace(plain, formats=frozenset())
        longest = self.bounds.max_string
        attempts = [
            (wanted, bound)
            for wanted in dict.fromkeys((shape, plain, shapeless, replace(shapeless, patterns=frozenset())))
            for bound in ((None,) if longest is None else (longest, min(longest, 6), min(longest, 2)))
        ]
        for wanted, bound in attempts:
            tried: dict[str, None] = dict.fromkeys(_lost(shape, wanted))
            found = strings.string_language(wanted, bound, tried.setdefault, spare=self._max_passes - self.passes)
            if found is not None and found.empty and shape.formats:
                # A format is an annotation: where it contradicts an assertion, the assertion wins.
                return self._string(replace(shape, formats=frozenset()), name, given_up)
            cost = 0.0 if found is None or found in self._spelled else strings.passes(found)
            # While a shorter bound can still be tried, one string may take a quarter of the remaining passes.
            share = 1 if longest is None or bound == min(longest, 2) else 4
            if cost <= (self._max_passes - self.passes) / share or (wanted, bound) == attempts[-1]:
                break
        given_up.update(tried)
        if found is None:
            return self._counted(wanted, given_up)
        self.passes += cost
        if found not in self._spelled:
            self._spelled[found] = NOTHING if found.empty else strings.string_rule(found, name, self.rules, quoted=True)
        return self._spelled[found]

    def _counted(self, shape: String, given_up: dict[str, None]) -> Expression:
        most, longest = shape.most, self.bounds.max_string
        if longest is not None:
            most = max(shape.least, longest) if most is None else max(shape.least, min(most, longest))
        # A maxLength that is too large is given up before its states are counted.
        over = most is not None and most - (shape.least if shape.least > strings.COUNTED else 0) > strings.COUNTED
        cost = 0 if over else strings.counted_passes(shape.least, most, self.rules)
        if over or (most is not None and longest is None and self.passes + cost > self._max_passes):
            given_up["maxLength"] = None
            most = None
            cost = strings.counted_passes(shape.least, most, self.rules)
        least = shape.least
        if cost > 1 and longest is None and self.passes + cost > self._max_passes:
            given_up["minLength"] = None
            least = 0
            cost = strings.counted_passes(least, most, self.rules)
        self.passes += cost
        return strings.counted(least, most, self.rules)


def _lost(shape: String, wanted: String) -> Iterator[str]:
    """The keywords of `shape` that `wanted` has no longer."""
    if wanted.most != shape.most:
        yield "maxLength"
    if wanted.formats != shape.formats:
        yield "format"
    if wanted.patterns != shape.patterns:
        yield "pattern"


class _Page(Objects, Arrays):
    """The rules of one document, at one depth bound."""

    def __init__(
        self,
        writer: RuleWriter,
        form: NormalForm,
        prefix: str,
        sort_keys: bool,
        depth: int | None,
        recursive: Mapping[Goal, int],
    ) -> None:
        super().__init__(form, prefix, sort_keys, writer.bounds)
        self.edges: dict[Goal, set[Goal]] = {}
        self._writer = writer
        self._depth = depth
        self._recursive = recursive
        self._names: dict[tuple[Goal, int], str] = {}

    def root(self, *, objects: bool) -> Expression:
        shapes = self.form.alternatives(ROOT)
        if objects:
            shapes = tuple(kept for shape in shapes for kept in _only_objects(shape))
        return self._body(shapes, ROOT, 0)

    def goal(self, goal: Goal, parent: Goal, level: int) -> Expression:
        """A reference to the rule of `goal`, as it stands inside a value of `parent` at `level`."""
        self.edges.setdefault(parent, set()).add(goal)
        same = goal in self._recursive and self._recursive[goal] == self._recursive.get(parent)
        level = level + 1 if same else 0
        if self._depth is not None and level > self._depth:
            return NOTHING
        key = (goal, level)
        if key not in self._names:
            name = self._names[key] = f"{self.prefix}_{len(self._names)}"
            self.rules[name] = NOTHING
            self.rules[name] = self._body(self.form.alternatives(goal), goal, level)
        return Ref(self._names[key])

    def key(self, name: str) -> Expression:
        return self._writer.key(name)

    def _body(self, shapes: tuple[Shape, ...], goal: Goal, level: int) -> Expression:
        return ebnf.alt(self._shape(shape, goal, level) for shape in shapes)

    def _shape(self, shape: Shape, goal: Goal, level: int) -> Expression:
        match shape:
            case Values(values):
                return ebnf.alt(map(literals.literal_rule, values))
            case Number() | String():
                return self.scalar(shape, goal)
            case Array():
                return self.array(shape, goal, level)
            case Object():
                return self.object(shape, goal, level)

    def scalar(self, shape: Number | String, goal: Goal) -> Expression:
        body, given_up = self._writer.scalar(shape)
        for keyword in given_up:
            self.relax(goal, keyword)
        return body

    def undeclared(self, key: String, goal: Goal) -> Expression:
        _, given_up = self._writer.scalar(key)
        if {"pattern", "not"}.intersection(given_up) and not any(holds for _, holds in key.patterns):
            # If declared names cannot be excluded, no undeclared name is admitted: one could repeat a declared one.
            return NOTHING
        return self.scalar(key, goal)


def _only_objects(shape: Shape) -> list[Shape]:
    if isinstance(shape, Values):
        values = tuple(value for value in shape.values if isinstance(value, dict))
        return [Values(values)] if values else []
    return [shape] if isinstance(shape, Object) else []
