"""Calls that are declared and valid, by feature of their schema: without a grammar, as SGLang does it, and enforced.

    scripts/bench enforcer accuracy [--presets demo demo-random] [--arms without stock enforcer] [--tokens 600]

    without   kimi_k2_engine, the prompt and an opened section, no grammar; our parser
    stock     SGLang's Engine without our vocabulary plugin: its own Kimi K2 tag for strict tools, required; its parser
    enforcer  kimi_k2, tool_choice required

One cell is valid calls / attempted ones, and in brackets the answers that ran out of `--tokens`. Every answer attempts
one call at least; a refused schema is one attempt. jsonschema judges, formats included. Temperature 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from kimi_k2_serving.core.deltas import collect_answer
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.engine.config import load_preset
from kimi_k2_serving.engine.host import build_engine
from tests.bench.enforcer.serving import SECTION, conversation, prompt, serving
from tests.server.running import ROOT, Server
from tests.support.calls import FORMS, PATIENCE_SECONDS, ask_all, tool
from tests.support.schemas import corpus, problems, sample

NAME = "look"
ALL = "all"
Tally = Counter[str]
# An answer's calls as (name, arguments), how many it began, and whether it ran out of tokens.
Answered = tuple[list[tuple[str, str]], int, bool]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--presets", nargs="+", default=["demo", "demo-random"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--schemas", type=int, metavar="N", help="an even sample of the corpus (default: all of it)")
    parser.add_argument("--tokens", type=int, default=600, help="most tokens of an answer")
    parser.add_argument("--concurrency", type=int, default=32)


def run(args: argparse.Namespace) -> int:
    schemas = sample(args.schemas) if args.schemas else corpus()
    for preset in args.presets:
        tallies: dict[str, dict[str, Tally]] = {}
        checkpoint = None
        if set(args.arms) - {"stock"}:
            with serving(preset) as (server, checkpoint):
                vocabulary = Vocabulary.load(checkpoint)
                for arm in ("without", "enforcer"):
                    if arm in args.arms:
                        answers = ARMS[arm](server, vocabulary, schemas, args.tokens, args.concurrency)
                        tallies[arm] = tally(schemas, answers)
        if "stock" in args.arms:
            answers = stock(preset, checkpoint or checkpoint_of(preset), schemas, args.tokens, args.concurrency)
            tallies["stock"] = tally(schemas, answers)
        print(table(preset, [arm for arm in ARMS if arm in args.arms], tallies), flush=True)
    return 0


def checkpoint_of(preset: str) -> Path:
    return ROOT / ".cache" / "checkpoints" / str(load_preset(preset, {}).checkpoint)


def tally(schemas: Mapping[str, Any], answers: Iterable[Answered]) -> dict[str, Tally]:
    found: dict[str, Tally] = defaultdict(Counter)
    for (title, schema), (calls, begun, cut) in zip(schemas.items(), answers, strict=True):
        valid = sum(name == NAME and holds(schema, arguments) for name, arguments in calls)
        for feature in (title.partition(":")[0], ALL):
            found[feature].update(attempted=max(1, begun), valid=valid, cut=int(cut))
    return found


def holds(schema: Any, arguments: str) -> bool:
    try:
        value = json.loads(arguments)
    except ValueError:
        return False
    return isinstance(value, dict) and not problems(schema, value)


def table(preset: str, arms: list[str], tallies: Mapping[str, Mapping[str, Tally]]) -> str:
    lines = [f"\n{preset:12}" + "".join(f"{arm:>24}" for arm in arms)]
    for feature in sorted(tallies[arms[0]], key=lambda feature: (feature == ALL, feature)):
        cells = [tallies[arm][feature] for arm in arms]
        texts = [f"{each['valid']}/{each['attempted']} ({each['cut']})" for each in cells]
        lines.append(f"{feature:12}" + "".join(f"{text:>24}" for text in texts))
    return "\n".join(lines)


def without(
    server: Server, vocabulary: Vocabulary, schemas: Mapping[str, Any], tokens: int, concurrency: int
) -> list[Answered]:
    section = vocabulary.control(SECTION)

    def one(schema: Any) -> Answered:
        sampling = {"temperature": 1.0, "stop_token_ids": list(vocabulary.stop_ids)}
        body = {
            "input_ids": [*prompt(vocabulary, conversation([tool(NAME, schema)])), section],
            "max_tokens": tokens,
            "sampling_parameters": json.dumps(sampling),
        }
        answer = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=PATIENCE_SECONDS)
        answer.raise_for_status()
        ended = FinishReason(answer.json()["finish_reason"])
        ids = answer.json()["output_ids"]
        parser = ToolCallParser(vocabulary, tools=[NAME])
        read = collect_answer([*parser.feed([section]), *parser.feed(ids), *parser.finish(ended)])
        calls = [(call.name, call.arguments) for call in read.tool_calls if call.complete]
        return calls, len(read.tool_calls) + len(read.rejected), ended is FinishReason.LENGTH

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, schemas.values()))


def enforced(
    server: Server, vocabulary: Vocabulary, schemas: Mapping[str, Any], tokens: int, concurrency: int
) -> list[Answered]:
    outcomes = ask_all(
        server,
        schemas,
        FORMS[:1],
        marker=vocabulary.control(SECTION),
        concurrency=concurrency,
        max_tokens=tokens,
        name=NAME,
    )
    return [(list(each.calls), len(each.calls), each.finish == "length") for each in outcomes]


def stock(preset: str, checkpoint: Path, schemas: Mapping[str, Any], tokens: int, concurrency: int) -> list[Answered]:
    """SGLang as it is, but for the plugin that lets it run on a CPU."""
    settings = load_preset(preset, {})
    os.environ.update({"HF_HUB_OFFLINE": "1", "SGLANG_PLUGINS": "kimi_k2_cpu", **settings.environment})
    vocabulary = Vocabulary.load(checkpoint)
    engine = build_engine({"log_level": "critical", **settings.server_args, "model_path": str(checkpoint)})

    async def everything() -> list[Answered]:
        turn = asyncio.Semaphore(concurrency)

        async def one(schema: Any) -> Answered:
            async with turn:
                return await asked_stock(engine, vocabulary, schema, tokens)

        return list(await asyncio.gather(*[one(schema) for schema in schemas.values()]))

    try:
        return list(engine.loop.run_until_complete(everything()))
    finally:
        engine.shutdown()


async def asked_stock(engine: Any, vocabulary: Vocabulary, schema: Any, tokens: int) -> Answered:
    from sglang.srt.entrypoints.openai.protocol import Tool
    from sglang.srt.function_call.kimik2_detector import KimiK2Detector

    declared = tool(NAME, schema)
    declared["function"]["strict"] = True
    try:
        tools = [Tool(**declared)]
        tag = KimiK2Detector().get_structural_tag(tools, "required", thinking_mode=False, parallel_tool_calls=True)
        sampling = {
            "structural_tag": json.dumps(tag.model_dump()),
            "max_new_tokens": tokens,
            "temperature": 1.0,
            "stop_token_ids": list(vocabulary.stop_ids),
            "skip_special_tokens": False,
        }
        ids = prompt(vocabulary, conversation([tool(NAME, schema)]))
        answer = await engine.async_generate(input_ids=ids, sampling_params=sampling)
    # Whatever SGLang or xgrammar raises for a schema that they do not take.
    except Exception:
        return [], 1, False
    read = KimiK2Detector().detect_and_parse(answer["text"], tools)
    calls = [(call.name, call.parameters) for call in read.calls]
    ended = answer["meta_info"]["finish_reason"]["type"]
    return calls, answer["text"].count("<|tool_call_begin|>"), ended == "length"


ARMS: dict[str, Any] = {"without": without, "stock": stock, "enforcer": enforced}
