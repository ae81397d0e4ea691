"""Compiling happens elsewhere, under a budget, and what fails there fails closed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kimi_k2_serving.core.errors import Internal, InvalidSchema
from kimi_k2_serving.grammar.compiler import Compiler
from tests.grammar.prover import Prover, request, tool

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def _tag(grammar: str) -> str:
    return json.dumps({"type": "structural_tag", "format": {"type": "grammar", "grammar": grammar}})


@pytest.fixture(scope="module")
def worker(small_checkpoint: Path) -> Iterator[Compiler]:
    with Compiler(small_checkpoint) as compiler:
        yield compiler


def test_a_tag_compiles_and_is_walked(worker: Compiler, prover: Prover) -> None:
    tag = prover.constraint(request(tool(SCHEMA))).structural_tag
    assert tag is not None
    worker.check(tag)
    compiled = worker.walk(tag, walks=5, most=2_000, seed=1)
    assert len(compiled.walks) == 5
    assert all(ended for _, ended in compiled.walks)
    assert 0 < compiled.seconds < 2


def test_what_xgrammar_refuses_is_an_invalid_schema(worker: Compiler) -> None:
    for _ in range(2):
        with pytest.raises(InvalidSchema) as caught:
            worker.check(_tag("root ::= nothing"), field="tools[0]")
        assert caught.value.field == "tools[0]"


def test_a_compile_past_its_budget_is_killed_and_the_next_one_works(small_checkpoint: Path) -> None:
    links = "".join(f"r{i} ::= [a-z] r{i + 1} | [0-9] r{i + 2}\n" for i in range(40_000))
    slow = _tag(f'root ::= r0\n{links}r40000 ::= "a"\nr40001 ::= "b"\n')
    with Compiler(small_checkpoint, budget=0.1) as compiler:
        with pytest.raises(InvalidSchema, match="simplify"):
            compiler.check(slow)
        compiler.check(_tag('root ::= "b"'))


def test_a_worker_that_cannot_start_is_our_fault(tmp_path: Path) -> None:
    with Compiler(tmp_path) as compiler, pytest.raises(Internal):
        compiler.check(_tag('root ::= "a"'))


def test_a_closed_compiler_may_be_used_again(small_checkpoint: Path) -> None:
    compiler = Compiler(small_checkpoint)
    compiler.check(_tag('root ::= "a"'))
    compiler.close()
    compiler.check(_tag('root ::= "c"'))
    compiler.close()
