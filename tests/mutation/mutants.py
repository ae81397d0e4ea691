"""The small faults that somebody could make in a module: one changed operator, constant, condition or statement each.

Left alone are what no test can or should see: annotations, docstrings, decorators, `__all__`, `__slots__`, aliases of
types, the wording of errors, and `assert_never`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_comment", "type_params"}
_SKIPPED_NAMES = {"__all__", "__slots__"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """`replacement` stands at `parent.field`, or at its `index` if that is a list; `top` is the statement it is in."""

    parent: ast.AST
    field: str
    index: int | None
    replacement: ast.AST
    line: int
    before: str

    def swap(self) -> Mutant:
        """Put the replacement in its place; the mutant returned puts back what was there."""
        value: Any = getattr(self.parent, self.field)
        if self.index is None:
            old = value
            setattr(self.parent, self.field, self.replacement)
        else:
            old = value[self.index]
            value[self.index] = self.replacement
        return Mutant(self.parent, self.field, self.index, old, self.line, self.before)

    def __str__(self) -> str:
        return f"line {self.line}\n{self.change()}"

    def change(self) -> str:
        """What was there and what is there now, a line each."""
        return f"    - {_short(self.before)}\n    + {_short(ast.unparse(self.replacement))}"


def _short(text: str) -> str:
    line = " ; ".join(part.strip() for part in text.splitlines())
    return line if len(line) <= 150 else f"{line[:147]}..."


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Every mutant of a module, in order of its source."""
    yield from _below(tree)


def _below(node: ast.AST) -> Iterator[Mutant]:
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or _silent(child, node):
                continue
            place = index if isinstance(value, list) else None
            line = getattr(child, "lineno", getattr(node, "lineno", 0))
            for replacement in _replacements(child):
                ast.copy_location(replacement, child)
                ast.fix_missing_locations(replacement)
                yield Mutant(node, field, place, replacement, line, ast.unparse(child))
            yield from _below(child)


def _silent(child: ast.AST, parent: ast.AST) -> bool:
    match child:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="assert_never"))):
            return True
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name in _SKIPPED_NAMES or (isinstance(value, ast.BinOp) and _is_type(value))
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() if isinstance(parent, ast.Call | ast.Module):
            return isinstance(child, ast.Import | ast.ImportFrom) or _is_error(parent)
        case ast.Constant(value=str()) if isinstance(parent, ast.Call):
            return _is_error(parent)
    return False


def _is_type(value: ast.expr) -> bool:
    """`A | B`, and `None | A`."""
    match value:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_type(left) and _is_type(right)
        case ast.Name() | ast.Subscript() | ast.Constant(value=None):
            return True
    return False


def _is_error(call: ast.AST) -> bool:
    """`SomeError("what is wrong")`: the classes of errors.py, by how their names are spelled here."""
    names = ("Invalid", "Missing", "Unknown", "Unsupported", "NotFound", "Limit", "Context", "_Refused", "ValueError")
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.startswith(names)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=[op, *ops], comparators=comparators):
            yield ast.Compare(left, [_COMPARISONS[type(op)](), *ops], comparators)
            if ops:
                yield ast.Compare(left, [op, *(_COMPARISONS[type(each)]() for each in ops)], comparators)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if not _is_type(node) and type(op) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.Constant(value=value):
            yield from _constants(value)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.comprehension(target=target, iter=iterable, ifs=[_, *rest], is_async=is_async):
            yield ast.comprehension(target, iterable, rest, is_async)
        case _:
            yield from _statements(node)


def _constants(value: object) -> Iterator[ast.AST]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int() | float():
            yield ast.Constant(value + 1)
        case str():
            yield ast.Constant(f"{value}?" if value else "?")
        case bytes():
            yield ast.Constant(value + b"?")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.If(test=_, body=body, orelse=orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield ast.If(ast.Constant(False), body, orelse)
        case ast.While(test=_, body=body, orelse=orelse):
            yield ast.While(ast.Constant(False), body, orelse)
        case ast.For(target=target, iter=_, body=body, orelse=orelse):
            yield ast.For(target, ast.Tuple([], ast.Load()), body, orelse)
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.match_case(pattern=pattern, guard=guard, body=body) if guard is not None:
            yield ast.match_case(pattern, None, body)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
