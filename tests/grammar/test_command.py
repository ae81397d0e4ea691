"""`kimi-k2 grammar` shows what an answer is held to, and tries it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import kimi_k2, modules_after

PARAMETERS = {"type": "object", "properties": {"day": {"type": "integer", "minimum": 1, "maximum": 7}}}
REQUEST = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": {"name": "plan", "parameters": PARAMETERS}}],
    "tool_choice": "required",
}


def test_schemas_tag_and_relaxations_are_printed(small_checkpoint: Path) -> None:
    done = kimi_k2("grammar", "--checkpoint", str(small_checkpoint), stdin=json.dumps(REQUEST).encode())
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert answer["schemas"] == {"tools[0].function.parameters": PARAMETERS}
    assert "functions.plan:" in answer["grammar"]
    assert json.loads(answer["structural_tag"])["type"] == "structural_tag"
    assert answer["relaxed"] == []


@pytest.mark.slow
def test_drawn_answers_are_validated(small_checkpoint: Path) -> None:
    options = ("--checkpoint", str(small_checkpoint), "--bounds", "demo", "--compile", "6")
    done = kimi_k2("grammar", *options, stdin=json.dumps(REQUEST).encode())
    compiled = json.loads(done.stdout)["compiled"]
    assert done.returncode == 0
    assert (compiled["answers"], compiled["finished"], compiled["problems"]) == (6, 6, [])
    assert compiled["calls"] >= 6


def test_a_schema_that_is_none_is_refused(small_checkpoint: Path) -> None:
    broken = json.loads(json.dumps(REQUEST).replace('"integer"', '"int"'))
    done = kimi_k2("grammar", "--checkpoint", str(small_checkpoint), stdin=json.dumps(broken).encode())
    assert done.returncode == 2
    assert b"tools[0].function.parameters.properties.day.type" in done.stderr


def test_it_needs_no_engine_unless_it_compiles(small_checkpoint: Path) -> None:
    loaded = modules_after("grammar", "--checkpoint", str(small_checkpoint), stdin=json.dumps(REQUEST).encode())
    assert not loaded & {"torch", "xgrammar", "sglang", "numpy"}
