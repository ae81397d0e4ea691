"""`kimi-k2 grammar`: reads an OpenAI chat request from standard input and writes the constraint of its answer to
standard output.

The output is a JSON object: `schemas`, each as it was read (2020-12 vocabulary); `grammar`, the rules as text;
`structural_tag`, the engine's input; `relaxed`, what the grammar does not enforce and the server checks afterwards.
With `--compile N` it shows what a server would use: the grammar is compiled in a killable worker within the server's
budget, and parts that are too expensive are given up. Then N random answers are drawn from it, and each finished one
is parsed and validated. The exit code is 1 if one is invalid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from random import Random
from typing import Any

from kimi_k2_cli import request
from kimi_k2_cli.checkpoint import add_option, load_vocabulary, resolve
from kimi_k2_cli.draw import draw
from kimi_k2_serving.core.deltas import collect_answer
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.messages import Conversation, FormatKind
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.grammar.constraint import Bounds, Constraint, constrain
from kimi_k2_serving.json_schema import schema
from kimi_k2_serving.json_schema.validate import validate, validate_answer

_BOUNDS = {"production": Bounds.production, "demo": Bounds.demo}


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.add_argument("--bounds", choices=_BOUNDS, default="production", help="how large an answer may grow")
    parser.add_argument("--compile", type=int, metavar="N", help="compile, draw N random answers and validate them")
    parser.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="stop a random answer after N tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random answers")
    parser.epilog = "example: kimi-k2 grammar --bounds demo --compile 20 < request.json"


def run(args: argparse.Namespace) -> int:
    conversation = request.from_stdin()
    vocabulary = load_vocabulary(args)
    seconds = 0.0
    if args.compile is None:
        constraint = constrain(conversation, vocabulary, bounds=_BOUNDS[args.bounds]())
    else:
        constraint, seconds = _enforced(args, conversation)
    tag = constraint.structural_tag
    answer: dict[str, Any] = {
        "schemas": _schemas(conversation),
        "grammar": json.loads(tag)["format"]["grammar"] if tag else None,
        "structural_tag": tag,
        "relaxed": list(constraint.relaxed),
    }
    if args.compile is not None and tag is not None:
        answer["compiled"] = {"seconds": round(seconds, 4), **_drawn(args, conversation, vocabulary, tag)}
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False, indent=2).encode() + b"\n")
    return 1 if answer.get("compiled", {}).get("problems") else 0


def _schemas(conversation: Conversation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, tool in enumerate(conversation.tools):
        if tool.parameters is not None and tool.strict:
            path = f"tools[{i}].function.parameters"
            found[path] = schema.read_schema(tool.parameters, path).root
    if conversation.response_format.schema is not None:
        path = "response_format.json_schema.schema"
        found[path] = schema.read_schema(conversation.response_format.schema, path).root
    return found


def _enforced(args: argparse.Namespace, conversation: Conversation) -> tuple[Constraint, float]:
    """The constraint as a server makes it, and the seconds that this took."""
    from kimi_k2_serving.enforcer.enforcer import Enforcer
    from kimi_k2_serving.enforcer.worker_client import WorkerProcess

    with Enforcer(WorkerProcess(resolve(args.checkpoint)), bounds=_BOUNDS[args.bounds]()) as enforcer:
        enforcer.worker.wait()
        began = time.perf_counter()
        constraint = enforcer.ask_job(enforcer.job(conversation)).result()
        return constraint, time.perf_counter() - began


def _drawn(args: argparse.Namespace, conversation: Conversation, vocabulary: Vocabulary, tag: str) -> dict[str, Any]:
    from kimi_k2_serving.grammar.xgrammar_vocabulary import compiler, token_info

    grammar = compiler(token_info(vocabulary)).compile_structural_tag(tag)
    dice, stops = Random(args.seed), frozenset(vocabulary.stop_ids)
    answers = [draw(grammar, stops, dice, limit=args.max_tokens) for _ in range(args.compile)]
    judged = [_judge(conversation, vocabulary, each.ids) for each in answers if each.ended]
    return {
        "answers": len(answers),
        "finished": len(judged),
        "calls": sum(calls for _, calls in judged),
        "problems": [problem for problems, _ in judged for problem in problems],
    }


def _judge(conversation: Conversation, vocabulary: Vocabulary, ids: tuple[int, ...]) -> tuple[list[str], int]:
    """The problems of one finished answer, and the number of its calls."""
    tools = {tool.name: tool for tool in conversation.tools}
    parser = ToolCallParser(vocabulary, tools=tools, parallel=conversation.parallel_tool_calls)
    answer = collect_answer([*parser.feed(ids), *parser.finish(FinishReason.STOP)])
    problems = [f"rejected: {rejection.value}" for rejection in answer.rejected]
    for call in answer.tool_calls:
        problems += [f"{call.name}: {problem}" for problem in validate(call.arguments, tools[call.name])]
    if not answer.tool_calls and conversation.response_format.kind is not FormatKind.TEXT:
        problems += validate_answer(answer.content, conversation.response_format)
    return problems, len(answer.tool_calls)
