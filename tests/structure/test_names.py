"""Names are unambiguous: a public class name occurs once in the whole package."""

from __future__ import annotations

import ast
from collections import Counter

from tests.structure.tree import PRODUCTION, modules

_MIRROR = "what the client raises for the server's error of that name"
# name -> why several modules have it
EXCEPTIONS = {
    "TritonPythonModel": "Triton looks for this name in each model.py",
    "Cancelled": _MIRROR,
    "DeadlineExceeded": _MIRROR,
    "InvalidRequest": _MIRROR,
    "NotFound": _MIRROR,
    "Unavailable": _MIRROR,
}
# Module names that do not describe their content.
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}


def test_a_public_class_name_occurs_once() -> None:
    names = Counter(
        node.name
        for module in modules(*PRODUCTION)
        for node in module.tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} == set(EXCEPTIONS)


def test_a_public_function_is_not_called_just_read() -> None:
    """`read_job` is clear without its module's name; `read` is not."""
    bare = {"read", "write", "build", "check", "encode", "decode", "load", "inspect", "parse", "convert"}
    found = {
        f"{module}: {node.name}"
        for module in modules(*PRODUCTION)
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in bare
    }
    assert found == set()


def test_a_module_s_name_says_what_is_in_it() -> None:
    assert [str(module) for module in modules(*PRODUCTION, "tests") if module.path.stem in EMPTY_NAMES] == []
