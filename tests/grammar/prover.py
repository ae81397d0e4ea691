"""Draws answers by dice from what `constrain` allows, and reads them as the server does."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import jsonschema

from kimi_k2_cli.draw import draw
from kimi_k2_serving.core.deltas import Answer, collect_answer
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.messages import Conversation, Json, Message, Role, Tool, ToolChoice, ToolMode
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.grammar.constraint import Bounds, Constraint, constrain
from kimi_k2_serving.grammar.xgrammar_vocabulary import compiler, token_info
from kimi_k2_serving.json_schema.schema import Schema

MOST_TOKENS = 20_000


def request(*tools: Tool, mode: ToolMode = ToolMode.REQUIRED, name: str | None = None, **rest: Any) -> Conversation:
    """A conversation that declares these tools."""
    return Conversation((Message(Role.USER, "hi"),), tuple(tools), ToolChoice(mode, name), **rest)


def tool(parameters: Schema | None, name: str = "f", **rest: Any) -> Tool:
    return Tool(name, {}, parameters, **rest)


class Prover:
    """Answers of one vocabulary, drawn with a uniform choice among all allowed tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.grammars = compiler(token_info(vocabulary))

    def constraint(self, conversation: Conversation, bounds: Bounds | None = None) -> Constraint:
        return constrain(conversation, self.vocabulary, bounds=bounds or Bounds.demo())

    def draw(self, conversation: Conversation, *, answers: int = 4, seed: int = 0) -> list[tuple[int, ...]]:
        """Ids of finished answers; an unfinished one fails."""
        tag = self.constraint(conversation).structural_tag
        assert tag is not None
        grammar = self.grammars.compile_structural_tag(tag)
        dice = Random(seed)
        drawn = [draw(grammar, frozenset(self.vocabulary.stop_ids), dice, limit=MOST_TOKENS) for _ in range(answers)]
        assert all(each.ended for each in drawn), "a walk did not end"
        return [each.ids for each in drawn]

    def read(self, conversation: Conversation, ids: tuple[int, ...]) -> Answer:
        names = [tool.name for tool in conversation.tools]
        parser = ToolCallParser(self.vocabulary, tools=names, parallel=conversation.parallel_tool_calls)
        return collect_answer([*parser.feed(ids), *parser.finish(FinishReason.STOP)])

    def arguments(self, conversation: Conversation, **options: Any) -> list[str]:
        """The arguments of every call of every answer drawn; none is rejected or incomplete."""
        texts = []
        for ids in self.draw(conversation, **options):
            answer = self.read(conversation, ids)
            assert not answer.rejected
            assert all(call.complete for call in answer.tool_calls)
            texts += [call.arguments for call in answer.tool_calls]
        return texts


def stock_problems(schema: Schema, value: Json) -> list[str]:
    """What unmodified jsonschema says, read in the draft that the schema's keywords belong to."""
    text = json.dumps(schema)
    judge: Any = jsonschema.Draft202012Validator
    if '"exclusiveMinimum": true' in text:
        judge = jsonschema.Draft4Validator
    elif '"additionalItems"' in text or '"dependencies"' in text:
        judge = jsonschema.Draft7Validator
    try:
        return [error.message for error in judge(schema).iter_errors(value)]
    except re.error:
        # Python's expressions lack what the pattern uses; our own judge still stands.
        return []
