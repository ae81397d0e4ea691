"""JSON Schema to grammar rules: the arguments of a call, or a whole JSON answer.

One Writer serves one request: rules that documents have in common (white space, free strings, counted characters,
equal numbers) are written once. A goal (see `shapes`) becomes one rule, so recursion in a schema is recursion in the
grammar; where `bounds.max_depth` is set, a recursive rule is written once per level instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.grammar import ebnf, numbers, schema, strings
from kimi_k2_serving.grammar.automaton import TooLarge
from kimi_k2_serving.grammar.bounds import Bounds
from kimi_k2_serving.grammar.components import components
from kimi_k2_serving.grammar.containers import Containers
from kimi_k2_serving.grammar.ebnf import EMPTY, NOTHING, Expression, OneOf, Ref, Repeat, Seq, Text
from kimi_k2_serving.grammar.normal_form import NormalForm
from kimi_k2_serving.grammar.schema import Document
from kimi_k2_serving.grammar.shapes import Array, Demand, Goal, Number, Object, Shape, String, Values

# A recursive schema that needs more levels than this to end at all is refused.
_DEEPEST = 64
ROOT: Goal = frozenset({Demand(())})
ANYTHING: Goal = frozenset()


class Writer:
    """Collects rules; `relaxed` lists `path: keyword` of all that the rules do not hold."""

    def __init__(self, bounds: Bounds, *, sort_keys: bool = False) -> None:
        self.bounds = bounds
        self.sort_keys = sort_keys
        self.rules: dict[str, Expression] = {"ws": self._white_space(), "unicode": strings.UNICODE}
        self._relaxed: dict[str, None] = {}
        self._scalars: dict[Number | String, tuple[Expression, tuple[str, ...]]] = {}
        self._documents = 0

    @property
    def relaxed(self) -> tuple[str, ...]:
        return tuple(self._relaxed)

    def rule(self, name: str, body: Expression) -> Expression:
        self.rules[name] = body
        return Ref(name)

    def _white_space(self) -> Expression:
        blank = OneOf(((0x09, 0x09), (0x20, 0x20)))
        options: list[Expression] = [EMPTY, Text(" ")]
        if self.bounds.indent is not None:
            options.append(Seq((Text("\n"), Repeat(blank, 0, self.bounds.indent))))
        return ebnf.alt(options)

    def empty_object(self) -> Expression:
        return Text("{}")

    def any_object(self) -> Expression:
        if "any_object" not in self.rules:
            self.rule("any_object", self.object(True, ""))
        return Ref("any_object")

    def object(self, parameters: Mapping[str, Json] | bool, path: str) -> Expression:
        """A JSON object that satisfies the schema. Raises InvalidSchema with `path` or a place inside it."""
        return self._bounded(parameters, path, objects=True, ordered=True)

    def value(self, answer: Mapping[str, Json] | bool, path: str, *, ordered: bool = True) -> Expression:
        """Any JSON value that satisfies the schema; `ordered`: the prompt shows the schema."""
        return self._bounded(answer, path, objects=False, ordered=ordered)

    def _bounded(self, value: schema.Schema, path: str, *, objects: bool, ordered: bool) -> Expression:
        """References may nest a schema deeper than the interpreter's stack; that is refused, too."""
        try:
            return self._document(schema.read(value, path), objects=objects, ordered=ordered)
        except RecursionError:
            raise InvalidSchema("nests too deeply through its references", field=path) from None

    def _document(self, document: Document, *, objects: bool, ordered: bool) -> Expression:
        self._documents += 1
        form = NormalForm(document)
        sort_keys = self.sort_keys and ordered
        depth = self.bounds.max_depth
        recursive: Mapping[Goal, int] = {}
        if depth is not None:
            depth = max(depth, 1)
            trial = _Page(self, form, "trial", sort_keys, None, {})
            trial.root(objects=objects)
            recursive = components(trial.edges)
        while True:
            page = _Page(self, form, f"s{self._documents}", sort_keys, depth, recursive)
            root = page.root(objects=objects)
            kept = ebnf.pruned({**self.rules, **page.rules, "root": root}, "root")
            if kept:
                break
            if depth is None or depth >= _DEEPEST or not recursive:
                raise InvalidSchema(f"no {'object' if objects else 'value'} satisfies it", field=document.path)
            depth *= 2
        self.rules.update({name: body for name, body in kept.items() if name != "root"})
        self._relaxed.update(form.relaxed | page.relaxed)
        return kept["root"]

    def scalar(self, shape: Number | String) -> tuple[Expression, tuple[str, ...]]:
        """The expression of a number or string, and the keywords that it does not hold."""
        if shape not in self._scalars:
            given_up: dict[str, None] = {}
            name = f"v{len(self._scalars)}"
            match shape:
                case Number():
                    body = self._number(shape, name, given_up)
                case String():
                    body = Seq((Text('"'), self._string(shape, name, given_up)))
            self._scalars[shape] = (body, tuple(given_up))
        return self._scalars[shape]

    def _number(self, shape: Number, name: str, given_up: dict[str, None]) -> Expression:
        if shape in (Number(), Number(integer=True)):
            return self.rule("integer" if shape.integer else "number", numbers.free(bool(shape.integer)))
        try:
            found = numbers.language(shape)
        except TooLarge:
            given_up["multipleOf"] = None
            found = numbers.language(Number(shape.integer, shape.low, shape.high))
        return NOTHING if found.empty else strings.spelled(found, name, self.rules, quoted=False)

    def _string(self, shape: String, name: str, given_up: dict[str, None]) -> Expression:
        longest = self.bounds.max_string
        found = strings.language(shape, longest, lambda keyword: given_up.setdefault(keyword))
        if found is not None and found.empty and shape.formats:
            # A format is an annotation: where it contradicts an assertion, the assertion wins.
            plain = String(shape.least, shape.most, shape.patterns, frozenset(), shape.excluded)
            return self._string(plain, name, given_up)
        if found is not None:
            return NOTHING if found.empty else strings.spelled(found, name, self.rules, quoted=True)
        most = shape.most
        if longest is not None:
            most = max(shape.least, longest) if most is None else max(shape.least, min(most, longest))
        if most is not None and most - (shape.least if shape.least > strings.COUNTED else 0) > strings.COUNTED:
            given_up["maxLength"] = None
            most = None
        return strings.counted(shape.least, most, self.rules)


class _Page(Containers):
    """The rules of one document, at one depth bound."""

    def __init__(
        self,
        writer: Writer,
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

    def _body(self, shapes: tuple[Shape, ...], goal: Goal, level: int) -> Expression:
        return ebnf.alt(self._shape(shape, goal, level) for shape in shapes)

    def _shape(self, shape: Shape, goal: Goal, level: int) -> Expression:
        match shape:
            case Values(values):
                return ebnf.alt(Text(json.dumps(value, ensure_ascii=False)) for value in values)
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


def _only_objects(shape: Shape) -> list[Shape]:
    if isinstance(shape, Values):
        values = tuple(value for value in shape.values if isinstance(value, dict))
        return [Values(values)] if values else []
    return [shape] if isinstance(shape, Object) else []
