"""Rules are shared and placed without a change of the language."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from kimi_k2_serving.core.messages import ToolMode
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.constraint import constrain
from kimi_k2_serving.json_schema.automaton import build_automaton
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.ebnf import EMPTY, Alt, Expression, Ref, Repeat, Seq, Terminal, references
from kimi_k2_serving.json_schema.sharing import shared
from tests.grammar.prover import request, tool

A, B = Terminal("a"), Terminal("b")


def test_equal_rules_become_one_and_what_is_needed_once_goes_where_it_is_needed() -> None:
    rules: dict[str, Expression] = {
        "root": Seq((Ref("x"), Ref("y"), Ref("z"))),
        "x": Seq((A, Ref("same1"))),
        "y": Seq((A, Ref("same2"))),
        "z": Seq((B, Ref("alone"))),
        "alone": Seq((A, A)),
        "same1": Alt((A, B)),
        "same2": Alt((A, B)),
        "unused": A,
    }
    assert shared(rules, "root") == {
        "root": Seq((Ref("x"), Ref("x"), B, A, A)),
        "x": Seq((A, Ref("same1"))),
        "same1": Alt((A, B)),
    }


def test_recursion_and_choices_inside_a_sequence_stay_rules() -> None:
    rules: dict[str, Expression] = {
        "root": Seq((Ref("list"), Ref("choice"))),
        "list": Alt((EMPTY, Seq((A, Ref("more"))))),
        "more": Seq((B, Ref("list"))),
        "choice": Alt((A, B)),
    }
    found = shared(rules, "root")
    assert next(iter(found)) == "root"
    assert found["root"] == rules["root"]
    assert found["choice"] == rules["choice"]
    assert {name for body in found.values() for name in references(body)} <= set(found)


def test_a_root_that_equals_another_rule_is_still_there() -> None:
    assert shared({"root": Alt((A, Seq((B, Ref("x"))))), "x": Alt((A, B))}, "root")["root"]
    assert shared({"root": Seq((A, B)), "x": A}, "root") == {"root": Seq((A, B))}
    assert shared({"root": Ref("x"), "x": Seq((A, B))}, "root") == {"root": Seq((A, B))}


def inlined(rules: dict[str, Expression], body: Expression) -> Expression:
    match body:
        case Ref(rule):
            return inlined(rules, rules[rule])
        case Seq(parts):
            return Seq(tuple(inlined(rules, part) for part in parts))
        case Alt(options):
            return Alt(tuple(inlined(rules, option) for option in options))
        case Repeat(inner, least, most):
            return Repeat(inlined(rules, inner), least, most)
        case _:
            return body


@given(st.data())
def test_the_language_is_the_same(data: st.DataObject) -> None:
    """Rules that refer to later ones only, so that each grammar is one expression."""
    count = data.draw(st.integers(1, 8))
    rules: dict[str, Expression] = {}
    for number in range(count):
        later = [Ref(f"r{n}") for n in range(number + 1, count)]
        leaf = st.sampled_from([A, B, EMPTY, *later])
        part = st.one_of(leaf, st.lists(leaf, min_size=1, max_size=3).map(lambda each: Alt(tuple(each))))
        part = st.one_of(part, leaf.map(lambda each: Repeat(each, 0, 2)))
        shape = st.sampled_from([Seq, Alt])
        kind = data.draw(shape)
        rules[f"r{number}"] = kind(tuple(data.draw(st.lists(part, min_size=1, max_size=3))))
    found = shared(rules, "r0")
    assert build_automaton(inlined(found, found["r0"])) == build_automaton(inlined(rules, rules["r0"]))


def test_a_large_agent_s_tools_take_few_rules(small_vocabulary: Vocabulary) -> None:
    """xgrammar's time grows faster than their number."""
    kinds = [{"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}]
    tools = [
        tool({"properties": {f"p{n}_{i}": kind for i, kind in enumerate(kinds)}}, name=f"f{n}") for n in range(100)
    ]
    tag = constrain(request(*tools, mode=ToolMode.AUTO), small_vocabulary, bounds=Bounds.production()).structural_tag
    assert tag is not None
    assert len(re.findall("::=", tag)) < 100 * 8
