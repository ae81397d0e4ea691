"""What the model may answer to one request, as the structural tag that SGLang's xgrammar backend takes.

    auto      text, then at most one tool-call section          required  a section
    none      text, and no section                              named     a section with exactly one call of that name
    with a response_format, `text` is conforming JSON

A section is `<|tool_calls_section_begin|>`, calls, `<|tool_calls_section_end|>`; markers are the checkpoint's control
ids, and no other id of the control block is allowed anywhere. Inside a call the header, the index and the arguments
are a grammar over characters. It relies on control ids having no text in the engine's vocabulary
(`engine_vocabulary.py`). Pure: imports neither torch nor xgrammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from kimi_k2_serving.core.errors import InvalidSchema, LimitExceeded
from kimi_k2_serving.core.limits import TOOL_CALLS_PER_ANSWER
from kimi_k2_serving.core.messages import Conversation, FormatKind, Json, Tool, ToolMode
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar import job
from kimi_k2_serving.grammar.job import UNREADABLE
from kimi_k2_serving.json_schema import ebnf, schema
from kimi_k2_serving.json_schema.bounds import Bounds
from kimi_k2_serving.json_schema.repeats import expanded
from kimi_k2_serving.json_schema.schema import TooMuch
from kimi_k2_serving.json_schema.sharing import shared
from kimi_k2_serving.json_schema.strings import PASSES
from kimi_k2_serving.json_schema.writer import RuleWriter

__all__ = ["Bounds", "Constraint", "constrain"]

# The model numbers its calls over the conversation. The parser gives them new ids, so any index of few digits will do.
_INDEX = ebnf.alt(
    (ebnf.Terminal("0"), ebnf.Seq((ebnf.OneOf(((0x31, 0x39),)), ebnf.Repeat(ebnf.OneOf(((0x30, 0x39),)), 0, 2))))
)

TOO_LONG = "takes too long to compile to a grammar; simplify it"

# Rules of one request. xgrammar compiles about as many within the budget; a large agent's hundred tools need a tenth.
_MAX_RULES = 50_000


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a grammar may be: `passes` over the vocabulary; `free` are the paths of schemas not to compile."""

    passes: float = PASSES
    free: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Constraint:
    """`structural_tag` is JSON text for SGLang's sampling parameter of that name, None if the answer is free.

    `relaxed` lists, as `path: keyword`, what the grammar does not enforce; calls of such tools must be validated.
    """

    structural_tag: str | None
    relaxed: tuple[str, ...] = ()


_ALL = Effort()


def constrain(
    conversation: Conversation, vocabulary: Vocabulary, *, bounds: Bounds, effort: Effort = _ALL
) -> Constraint:
    """The constraint of one conversation. Raises InvalidSchema or LimitExceeded with the path inside the request.

    A conversation without tools and without a response format is not constrained: the parser removes every control id
    from the text, and without a grammar there is nothing to compile.
    """
    answer = conversation.response_format
    if not conversation.tools and answer.kind is FormatKind.TEXT:
        return Constraint(None)
    writer = RuleWriter(bounds, sort_keys=bounds.sort_keys or vocabulary.sort_tool_keys, passes=effort.passes)
    mode = conversation.tool_choice.mode if conversation.tools else ToolMode.NONE
    options: list[ebnf.Expression] = []
    if mode in (ToolMode.AUTO, ToolMode.NONE):
        options.append(_content(conversation, vocabulary, writer, effort))
    if mode is not ToolMode.NONE:
        section = _section(conversation, vocabulary, writer, bounds, effort)
        free_text = mode is ToolMode.AUTO and answer.kind is FormatKind.TEXT
        options = [ebnf.seq(options[0], ebnf.optional(section))] if free_text else [*options, section]
    rules = ebnf.reached({"root": ebnf.alt(options), **writer.rules}, "root")
    if len(rules) > _MAX_RULES:
        raise InvalidSchema(f"takes {len(rules)} grammar rules, the limit is {_MAX_RULES}; simplify it", field="tools")
    tag = {
        "type": "structural_tag",
        "format": {"type": "grammar", "grammar": ebnf.write_grammar(shared(expanded(rules), "root"))},
    }
    return Constraint(json.dumps(tag), tuple(writer.relaxed))


def _content(conversation: Conversation, vocabulary: Vocabulary, writer: RuleWriter, effort: Effort) -> ebnf.Expression:
    """Text without control ids, or the JSON that the response format asks for."""
    answer = conversation.response_format
    match answer.kind:
        case FormatKind.TEXT:
            return ebnf.TokensExcept(tuple(sorted(vocabulary.control_ids)))
        case FormatKind.JSON_OBJECT:
            return writer.any_object()
        case FormatKind.JSON_SCHEMA:
            schema = answer.schema if answer.schema is not None else True
            if job.FORMAT not in effort.free:
                try:
                    return writer.value(schema, job.FORMAT, ordered=False)
                except TooMuch:
                    if answer.insists:
                        raise
            elif answer.insists:
                raise InvalidSchema(TOO_LONG, field=job.FORMAT)
            writer.give_up(f"{job.FORMAT}: {job.WHOLE}")
            if isinstance(schema, Mapping) and schema.get("type") == "object":
                return writer.any_object()
            return writer.value(True, job.FORMAT, ordered=False)


def _section(
    conversation: Conversation, vocabulary: Vocabulary, writer: RuleWriter, bounds: Bounds, effort: Effort
) -> ebnf.Expression:
    choice = conversation.tool_choice
    single = choice.mode is ToolMode.NAMED or not conversation.parallel_tool_calls
    most = 1 if single else bounds.max_calls or TOOL_CALLS_PER_ANSWER.value
    marker = ebnf.Token(vocabulary.control("<|tool_call_argument_begin|>"))
    bodies = [
        ebnf.Seq((ebnf.Terminal(f"functions.{tool.name}:"), _INDEX, marker, _arguments(tool, i, writer, effort)))
        for i, tool in enumerate(conversation.tools)
        if choice.allows(tool.name)
    ]
    call = writer.rule(
        "call",
        ebnf.seq(
            ebnf.Token(vocabulary.control("<|tool_call_begin|>")),
            ebnf.alt(bodies),
            ebnf.Token(vocabulary.control("<|tool_call_end|>")),
        ),
    )
    return writer.rule(
        "section",
        ebnf.seq(
            ebnf.Token(vocabulary.control("<|tool_calls_section_begin|>")),
            ebnf.Repeat(call, 1, most),
            ebnf.Token(vocabulary.control("<|tool_calls_section_end|>")),
        ),
    )


def _arguments(tool: Tool, position: int, writer: RuleWriter, effort: Effort) -> ebnf.Expression:
    """A tool without parameters takes `{}`; one with `strict: false` takes any JSON object. So does one whose schema
    cannot be read or would take too much work, unless it has `strict: true`; then the schema is refused.
    """
    if tool.parameters is None:
        return writer.empty_object()
    if not tool.strict or tool.parameters is True:
        return writer.any_object()
    path = job.path(position)
    if path in effort.free:
        if tool.insists:
            raise InvalidSchema(TOO_LONG, field=path)
        writer.give_up(f"{path}: {job.WHOLE}")
        return writer.any_object()
    try:
        return writer.object(tool.parameters, path)
    except TooMuch:
        if tool.insists:
            raise
        writer.give_up(f"{path}: {job.WHOLE}")
    except (InvalidSchema, LimitExceeded) as error:
        if tool.insists:
            raise
        # Only the tool's author can correct a schema that is none, or admits no object: this tool takes any object.
        readable = _readable(tool.parameters, path)
        writer.give_up(f"{path}: {job.WHOLE}" if readable else f"{error.field or path}: {UNREADABLE}")
    return writer.any_object()


def _readable(parameters: Mapping[str, Json] | bool, path: str) -> bool:
    try:
        schema.read_schema(parameters, path)
    except (InvalidSchema, LimitExceeded, RecursionError):
        return False
    return True
