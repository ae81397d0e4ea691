"""A grammar goes on where the given beginning of an answer ends: in the worker, and in SGLang's backend."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import xgrammar

from kimi_k2_serving.core.messages import Conversation, FormatKind, Message, ResponseFormat, Role, ToolMode
from kimi_k2_serving.grammar import job as jobs
from kimi_k2_serving.grammar.constraint import Bounds
from kimi_k2_serving.grammar.continued import Continuing, accepts, with_prefix, without_prefix
from tests.grammar.prover import Prover, request, tool

COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def formatted(prefix: str, *, tools: bool = False) -> Conversation:
    declared = (tool(COLOUR),) if tools else ()
    last = Message(Role.ASSISTANT, prefix)
    return Conversation(
        (last,), declared, response_format=ResponseFormat(FormatKind.JSON_SCHEMA, COLOUR), continues=True
    )


def whole_tag(prover: Prover, *, tools: bool = False) -> str:
    tag = prover.constraint(formatted("", tools=tools)).structural_tag
    assert tag is not None
    return tag


class _Grammar:
    """SGLang's grammar object, as far as it is used: a copy has a matcher of its own at the start."""

    def __init__(self, compiled: xgrammar.CompiledGrammar) -> None:
        self.compiled = compiled
        self.matcher = xgrammar.GrammarMatcher(compiled)

    def copy(self) -> _Grammar:
        return _Grammar(self.compiled)


def backend(prover: Prover) -> Any:
    found: Any = SimpleNamespace(cache={}, compiled=0)

    def dispatch(tag: str) -> _Grammar:
        found.compiled += 1
        return _Grammar(prover.grammars.compile_structural_tag(tag))

    found.dispatch_structural_tag = dispatch
    found.set_cache = lambda key, value: found.cache.update({key: value})
    Continuing(found, lambda problem: SimpleNamespace(problem=problem))
    return found


def allowed_text(grammar: Any) -> str:
    return str(grammar.matcher.find_jump_forward_string())


@pytest.mark.parametrize(
    ("prefix", "fits"),
    [
        ('{"colour": ', True),
        ('{"colour": "gr', True),
        ('{"colour": "red"}', True),
        ('{"colour": "blue', False),
        ("Sure! ", False),
        ('{"color', False),
        ('{"colour": "red"} and', False),
    ],
)
@pytest.mark.parametrize("tools", [False, True])
def test_a_beginning_fits_if_an_answer_may_begin_so(prover: Prover, prefix: str, fits: bool, tools: bool) -> None:
    compiled = prover.grammars.compile_structural_tag(whole_tag(prover, tools=tools))
    assert accepts(compiled, prefix) is fits


@pytest.mark.parametrize("prefix", ['{"colour": "gr', '"prefix": "', '\u20ac \\ "', "\n"])
def test_the_tag_carries_the_beginning_and_gives_it_back(prover: Prover, prefix: str) -> None:
    tag = whole_tag(prover)
    found, given = without_prefix(with_prefix(tag, prefix))
    assert given == prefix
    assert json.loads(found) == json.loads(tag)


@pytest.mark.parametrize("tag", ["{", "[]", '{"type": "structural_tag", "prefix": 3}', '{"format": {"prefix": "a"}}'])
def test_a_tag_without_a_beginning_is_what_it_was(tag: str) -> None:
    assert without_prefix(tag) == (tag, "")


def test_the_engine_s_grammar_goes_on_after_the_beginning(prover: Prover) -> None:
    engine = backend(prover)
    grammar = engine.dispatch_structural_tag(with_prefix(whole_tag(prover), '{"colour": "gr'))
    assert allowed_text(grammar).startswith("een")


def test_the_engine_compiles_once_for_all_beginnings_and_keeps_none_of_them(prover: Prover) -> None:
    engine, tag = backend(prover), whole_tag(prover)
    for prefix in ('{"colour": "gr', '{"colour": "re'):
        key = with_prefix(tag, prefix)
        grammar = engine.dispatch_structural_tag(key)
        engine.set_cache(("structural_tag", key), grammar.copy())
    assert engine.compiled == 1
    assert len(engine.cache) == 1


def test_the_engine_refuses_a_beginning_that_does_not_fit(prover: Prover) -> None:
    found = backend(prover).dispatch_structural_tag(with_prefix(whole_tag(prover), "Sure! "))
    assert "beginning" in found.problem


def test_only_a_constrained_format_makes_a_job_of_the_beginning() -> None:
    bounds = Bounds.demo()
    free = [
        jobs.encode_job(request(tool(COLOUR), mode=ToolMode.AUTO, **options), bounds)
        for options in ({}, {"continues": True})
    ]
    assert free[0] == free[1]
    held = formatted('{"colour": ')
    assert jobs.decode_job(jobs.encode_job(held, bounds))[0].prefix == '{"colour": '
    assert jobs.encode_job(held, bounds) != jobs.encode_job(formatted('{"col'), bounds)
