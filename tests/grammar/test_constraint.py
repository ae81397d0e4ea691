"""Modes of tool choice, response formats, and what no answer may contain."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from xgrammar import GrammarMatcher

from kimi_k2_cli.draw import draw
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidSchema
from kimi_k2_serving.core.limits import JSON_DEPTH
from kimi_k2_serving.core.messages import FormatKind, ResponseFormat, ToolMode
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.enforcer.inspection import Relaxed
from kimi_k2_serving.grammar import job
from kimi_k2_serving.grammar.constraint import Bounds
from kimi_k2_serving.grammar.xgrammar_vocabulary import compiler, token_info
from kimi_k2_serving.json_schema.validate import validate_answer
from tests.grammar.prover import MOST_TOKENS, Prover, request, tool

WEATHER = tool({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, "get_weather")
NOW = tool(None, "now")
SECTION = "<|tool_calls_section_begin|>"
COUNT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_required_is_a_section_of_declared_calls(prover: Prover) -> None:
    conversation = request(WEATHER, NOW)
    names = set()
    for ids in prover.draw(conversation, answers=20):
        answer = prover.read(conversation, ids)
        assert answer.content == ""
        assert 1 <= len(answer.tool_calls) <= (Bounds.demo().max_calls or 0)
        names |= {call.name for call in answer.tool_calls}
    assert names == {"get_weather", "now"}


def test_a_named_choice_is_one_call_of_that_name(prover: Prover) -> None:
    conversation = request(WEATHER, NOW, mode=ToolMode.NAMED, name="now")
    for ids in prover.draw(conversation, answers=10):
        assert [(call.name, call.arguments) for call in prover.read(conversation, ids).tool_calls] == [("now", "{}")]


def test_without_parallel_calls_there_is_one(prover: Prover) -> None:
    conversation = request(WEATHER, NOW, parallel_tool_calls=False)
    for ids in prover.draw(conversation, answers=10):
        assert len(prover.read(conversation, ids).tool_calls) == 1


def test_a_tool_that_is_not_strict_takes_any_object(prover: Prover) -> None:
    conversation = request(tool(COUNT, strict=False))
    texts = prover.arguments(conversation, answers=20)
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert any("n" not in json.loads(text) for text in texts)


def _allowed(prover: Prover, matcher: GrammarMatcher, token: int) -> bool:
    fork = matcher.fork()
    return bool(fork.accept_token(token))


def _matcher(prover: Prover, conversation: object) -> GrammarMatcher:
    tag = prover.constraint(conversation).structural_tag  # type: ignore[arg-type]
    assert tag is not None
    return GrammarMatcher(prover.grammars.compile_structural_tag(tag))


def test_auto_allows_text_then_a_section_then_only_the_end(prover: Prover) -> None:
    vocabulary = prover.vocabulary
    matcher = _matcher(prover, request(NOW, mode=ToolMode.AUTO))
    for token in vocabulary.encode("Let me see <|tool_call_begin|>"):
        assert matcher.accept_token(token)
    controls = {name for name, token in vocabulary.controls.items() if _allowed(prover, matcher, token)}
    assert controls == {SECTION, "<|im_end|>", "[EOS]"}
    for token in (
        vocabulary.control(SECTION),
        vocabulary.control("<|tool_call_begin|>"),
        *vocabulary.encode("functions.now:0"),
        vocabulary.control("<|tool_call_argument_begin|>"),
        *vocabulary.encode("{}"),
        vocabulary.control("<|tool_call_end|>"),
        vocabulary.control("<|tool_calls_section_end|>"),
    ):
        assert matcher.accept_token(token)
    assert not _allowed(prover, matcher, vocabulary.encode("a")[0])
    assert _allowed(prover, matcher, vocabulary.stop_ids[0])


def test_none_bans_the_section_and_keeps_text(prover: Prover) -> None:
    matcher = _matcher(prover, request(NOW, mode=ToolMode.NONE))
    for token in prover.vocabulary.encode("plain"):
        assert matcher.accept_token(token)
    controls = {name for name, token in prover.vocabulary.controls.items() if _allowed(prover, matcher, token)}
    assert controls == {"<|im_end|>", "[EOS]"}


def test_no_control_id_fits_into_a_string(prover: Prover) -> None:
    vocabulary = prover.vocabulary
    matcher = _matcher(prover, request(WEATHER))
    start = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    for token in (*map(vocabulary.control, start), *vocabulary.encode("functions.get_weather:0")):
        assert matcher.accept_token(token)
    assert matcher.accept_token(vocabulary.control("<|tool_call_argument_begin|>"))
    for token in vocabulary.encode('{"city":"'):
        assert matcher.accept_token(token)
    assert not [name for name, token in vocabulary.controls.items() if _allowed(prover, matcher, token)]
    for token in vocabulary.encode("<|im_end|>"):
        assert matcher.accept_token(token), "text that only looks like a marker is text"


def test_plain_chat_is_not_constrained(prover: Prover) -> None:
    assert prover.constraint(request(mode=ToolMode.AUTO)).structural_tag is None


@pytest.mark.parametrize("kind", [FormatKind.JSON_OBJECT, FormatKind.JSON_SCHEMA])
@pytest.mark.parametrize("mode", [None, ToolMode.AUTO, ToolMode.NONE])
def test_a_response_format_is_json_or_a_section(kind: FormatKind, mode: ToolMode | None, prover: Prover) -> None:
    wanted = ResponseFormat(kind, COUNT if kind is FormatKind.JSON_SCHEMA else None)
    tools = () if mode is None else (WEATHER,)
    conversation = request(*tools, mode=mode or ToolMode.AUTO, response_format=wanted)
    called = 0
    for ids in prover.draw(conversation, answers=20):
        answer = prover.read(conversation, ids)
        called += bool(answer.tool_calls)
        assert answer.tool_calls or validate_answer(answer.content, wanted) == []
    assert (called > 0) == (mode is ToolMode.AUTO)


def test_properties_come_in_the_order_that_the_prompt_shows(prover: Prover) -> None:
    names = ["zulu", "alpha", "mike"]
    schema = {"type": "object", "properties": {name: {"type": "null"} for name in names}, "required": names}
    for text in prover.arguments(request(tool(schema))):
        assert list(json.loads(text)) == names


def test_an_object_that_nothing_satisfies_is_refused_by_its_path(prover: Prover) -> None:
    with pytest.raises(InvalidSchema) as caught:
        prover.constraint(request(NOW, tool({"type": "string"}, insists=True)))
    assert caught.value.field == "tools[1].function.parameters"


CARELESS: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {"a": {"type": "string"}}, "required": None}, ".required"),
    ({"type": "object", "properties": None}, ".properties"),
    ({"type": "any"}, ".type"),
    ({"type": "object", "properties": {"a": {"type": "string", "required": True}}}, ".properties.a.required"),
]


@pytest.mark.parametrize(("schema", "place"), CARELESS)
def test_a_tool_whose_schema_cannot_be_read_takes_any_object(
    prover: Prover, schema: dict[str, Any], place: str
) -> None:
    constraint = prover.constraint(request(tool(schema)))
    assert constraint.relaxed == (f"tools[0].function.parameters{place}: unreadable",)
    assert Relaxed.of(constraint, request(tool(schema))) == Relaxed(constraint.relaxed)
    insisting = replace(tool(schema), insists=True)
    with pytest.raises(InvalidSchema) as caught:
        prover.constraint(request(NOW, insisting))
    assert caught.value.field == f"tools[1].function.parameters{place}"


@pytest.mark.parametrize("word", ["properties", "items", "anyOf", "not", "allOf", "$defs"])
def test_a_schema_as_deep_as_a_body_may_be_is_unreadable_for_its_tool_alone(prover: Prover, word: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(JSON_DEPTH.value // 2 - 4):
        inner = {"a": schema} if word in ("properties", "$defs") else [schema] if word.endswith("Of") else schema
        schema = {word: inner}
    constraint = prover.constraint(request(NOW, tool({"type": "object", "properties": {"a": schema}}, "deep")))
    assert constraint.relaxed
    assert all(line.startswith("tools[1].") and line.endswith(": unreadable") for line in constraint.relaxed)


@pytest.mark.parametrize(
    "number",
    [
        {"maximum": 18446744073709551616, "minimum": -(10**30)},
        {"default": 10**25, "examples": [10**25]},
        {"multipleOf": 10**25},
        {"enum": [10**25, 1]},
        {"const": 10**20},
    ],
)
def test_a_schema_may_have_numbers_beyond_64_bits(prover: Prover, number: dict[str, Any]) -> None:
    text = json.dumps({"type": "object", "properties": {"n": {"type": "integer", **number}}, "required": ["n"]})
    asked = request(tool(strict_json.loads(text, field="tools"), insists=True))  # type: ignore[arg-type]
    assert prover.draw(job.decode_job(job.encode_job(asked, Bounds.demo()))[0], answers=5)


def test_what_is_given_up_is_named(prover: Prover) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^(.)\1$"}}, "required": ["a"]}
    constraint = prover.constraint(request(tool(schema)))
    assert constraint.relaxed == ("tools[0].function.parameters.properties.a: pattern",)


def test_answers_do_not_depend_on_what_was_compiled_before(prover: Prover) -> None:
    """xgrammar's own cache mixes up grammars that differ in token ids only; ours goes without it."""
    fresh = compiler(token_info(prover.vocabulary))
    stops = frozenset(prover.vocabulary.stop_ids)
    modes = [request(NOW, mode=mode) for mode in (ToolMode.REQUIRED, ToolMode.NONE, ToolMode.AUTO)]
    for conversation in modes:
        tag = prover.constraint(conversation).structural_tag
        first = draw(prover.grammars.compile_structural_tag(tag), stops, Random(3), limit=60)
        again = draw(fresh.compile_structural_tag(tag), stops, Random(3), limit=60)
        assert first == again


def test_production_leaves_strings_unbounded(prover: Prover) -> None:
    tag = prover.constraint(request(WEATHER, mode=ToolMode.NAMED, name="get_weather"), Bounds.production())
    matcher = GrammarMatcher(prover.grammars.compile_structural_tag(tag.structural_tag))
    head = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    for token in (*map(prover.vocabulary.control, head), *prover.vocabulary.encode("functions.get_weather:0")):
        assert matcher.accept_token(token)
    assert matcher.accept_token(prover.vocabulary.control("<|tool_call_argument_begin|>"))
    assert matcher.accept_string('{\n    "city": "' + "word " * 2_000 + '"\n}')


def test_building_a_tag_imports_no_engine() -> None:
    code = (
        "import sys; import kimi_k2_serving.grammar.constraint, kimi_k2_serving.json_schema.validate; "
        "print({'torch', 'xgrammar', 'numpy', 'sglang'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"


def test_an_index_has_three_digits_at_most(prover: Prover, small_vocabulary: Vocabulary) -> None:
    marker = small_vocabulary.control("<|tool_call_argument_begin|>")
    begin = small_vocabulary.control("<|tool_call_begin|>")
    for ids in prover.draw(request(NOW), answers=20):
        header = ids[ids.index(begin) + 1 : ids.index(marker)]
        digits = b"".join(map(small_vocabulary.token_bytes, header)).decode().partition(":")[2]
        assert str(int(digits)) == digits
        assert len(digits) <= 3
    assert MOST_TOKENS > 0


def _grammar(prover: Prover, schema: dict[str, Any], bounds: Bounds) -> tuple[GrammarMatcher, tuple[str, ...]]:
    """A matcher that stands before the arguments of a call."""
    constraint = prover.constraint(request(tool(schema), parallel_tool_calls=False), bounds)
    matcher = GrammarMatcher(prover.grammars.compile_structural_tag(constraint.structural_tag))
    control, encode = prover.vocabulary.control, prover.vocabulary.encode
    head = [control(SECTION), control("<|tool_call_begin|>"), *encode("functions.f:0")]
    for token in [*head, control("<|tool_call_argument_begin|>")]:
        assert matcher.accept_token(token)
    return matcher, constraint.relaxed


def _takes(prover: Prover, schema: dict[str, Any], arguments: str) -> bool:
    matcher, relaxed = _grammar(prover, schema, Bounds.production())
    assert relaxed == ()
    end = prover.vocabulary.control("<|tool_call_end|>")
    return bool(matcher.accept_string(arguments) and matcher.accept_token(end))


@pytest.mark.parametrize(
    ("items", "holds", "breaks"),
    [
        ({"contains": {"const": 7}}, ["[7]", "[1,2,7,3]", "[1, 2, 3, 7]"], ["[]", "[1,2]"]),
        ({"contains": {"const": 7}, "minContains": 2, "maxContains": 3}, ["[7,1,7]", "[7,7,7]"], ["[7]", "[7,7,7,7]"]),
        ({"contains": {"const": 7}, "minContains": 0, "maxContains": 1}, ["[]", "[1]", "[1,7]"], ["[7,1,7]"]),
        ({"contains": {"const": 7}, "minItems": 3}, ["[7,1,2]", "[1,2,7]"], ["[7,1]", "[1,2,3]"]),
        (
            {"prefixItems": [{"const": 1}], "contains": {"const": 7}, "unevaluatedItems": False},
            ["[1,7]", "[1,7,7]"],
            ["[1]", "[1,7,2]"],
        ),
    ],
)
def test_a_match_may_stand_anywhere_and_is_counted(
    items: dict[str, Any], holds: list[str], breaks: list[str], prover: Prover
) -> None:
    schema = {"type": "object", "properties": {"v": {"type": "array", **items}}, "required": ["v"]}
    for text in holds:
        assert _takes(prover, schema, f'{{"v":{text}}}'), text
    for text in breaks:
        assert not _takes(prover, schema, f'{{"v":{text}}}'), text


def test_fewer_matches_at_most_than_at_least_satisfy_nothing(prover: Prover) -> None:
    items = {"type": "array", "contains": {"const": 7}, "minContains": 3, "maxContains": 1}
    parameters = {"type": "object", "properties": {"v": items}, "required": ["v"]}
    with pytest.raises(InvalidSchema):
        prover.constraint(request(tool(parameters, insists=True)))


UNEVALUATED: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        {"$ref": "#/$defs/d", "properties": {"a": {}}, "$defs": {"d": {"properties": {"b": {}}}}},
        ['{"a":1,"b":2}', '{"b":2}'],
        ['{"c":3}'],
    ),
    (
        {"anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {}}}]},
        ['{"a":1}', '{"b":2}'],
        ['{"c":3}'],
    ),
    ({"properties": {"a": {}}, "not": {"not": {"properties": {"b": {}}}}}, ['{"a":1}'], ['{"b":2}', '{"a":1,"b":2}']),
    ({"allOf": [{"properties": {"a": {}}, "unevaluatedProperties": {"const": 7}}]}, ['{"a":1,"x":7}'], ['{"x":8}']),
]


@pytest.mark.parametrize(("rest", "holds", "breaks"), UNEVALUATED)
def test_unevaluated_properties_see_their_own_schema_only(
    rest: dict[str, Any], holds: list[str], breaks: list[str], prover: Prover
) -> None:
    schema = {"type": "object", "unevaluatedProperties": False, **rest}
    for text in holds:
        assert _takes(prover, schema, text), text
    for text in breaks:
        assert not _takes(prover, schema, text), text


def test_lengths_beyond_what_compiles_in_time_are_relaxed_and_named(prover: Prover) -> None:
    fields = {f"f{i}": {"type": "string", "pattern": "^[^<>]+$", "maxLength": 20 + i} for i in range(20)}
    schema = {"type": "object", "properties": fields, "required": list(fields)}
    _, relaxed = _grammar(prover, schema, Bounds.production())
    given_up = {f"tools[0].function.parameters.properties.f{i}: maxLength" for i in range(20)}
    assert relaxed
    assert set(relaxed) < given_up


def test_many_names_are_told_apart_from_undeclared_ones(prover: Prover) -> None:
    names = [f"some_name_{i}" for i in range(300)]
    schema: dict[str, Any] = {"type": "object", "properties": {name: {"type": "null"} for name in names}}
    schema["additionalProperties"] = {"type": "integer"}
    assert _takes(prover, schema, '{"some_name_7": null, "other": 1}')
    assert not _takes(prover, schema, '{"some_name_7": 1}')
