"""Size budgets for files, functions and the adaptors that Triton loads: a reader can keep a whole module in mind."""

from __future__ import annotations

import ast

from tests.structure.tree import PRODUCTION, ROOT, Module, modules

FILE_LINES = 400
FUNCTION_LINES = 50
ADAPTOR_LINES = 70

EVERYWHERE = (*PRODUCTION, "tests")


def lines(module: Module) -> int:
    return len(module.path.read_text("utf-8").splitlines())


def test_no_file_is_over_its_budget() -> None:
    assert {str(module): lines(module) for module in modules(*EVERYWHERE) if lines(module) > FILE_LINES} == {}


def test_no_function_is_over_its_budget() -> None:
    long = {
        f"{module}: {node.name}": length
        for module in modules(*EVERYWHERE)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_what_triton_loads_is_a_thin_adaptor() -> None:
    adaptors = [ROOT / "backend" / "sglang" / "model.py", *ROOT.glob("model_repository/*/1/model.py")]
    assert len(adaptors) == 3
    assert {
        str(path): long for path in adaptors if (long := len(path.read_text("utf-8").splitlines())) > ADAPTOR_LINES
    } == {}


def test_a_module_opens_with_its_contract() -> None:
    silent = [str(module) for module in modules(*PRODUCTION) if not ast.get_docstring(module.tree)]
    assert silent == []
