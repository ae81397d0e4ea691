"""Tokens per second with the enforcer's grammar beside without: the same prompt, the same number of tokens.

    scripts/bench enforcer throughput [--preset demo-random] [--tokens 128] [--rounds 9] [--concurrency 1 16]

    text        free text under the grammar that `auto` has with three tools
    arguments   inside a string of a call's arguments, under the grammar of `required` with production's bounds

Both arms ask kimi_k2_engine, streamed, alternating round by round, after one round of each to warm up. Logit biases,
the same in both arms, keep a text from ending and a string from closing. Prints medians of the rounds and the median
of the ratios of neighbouring rounds; the same of tokens per second of the server's own processor time, which other
work on the machine hardly changes; and the least and the greatest ratio of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.constraint import Bounds, constrain
from tests.bench.enforcer.serving import SECTION, conversation, prompt, serving
from tests.server.running import Server
from tests.support.calls import tool
from tests.support.schemas import corpus

TOOLS = ("tools: calendar event", "tools: run a command", "basic: nested objects")
NOTE = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
# As near to "never" as the API's bounds allow.
NEVER = -100.0


# Tokens per second of the clock, and of the server's processor time.
Rate = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of answer: the engine's inputs, and the grammar that one of the arms adds."""

    name: str
    ids: list[int]
    grammar: str
    bias: dict[str, float]

    def body(self, tokens: int, *, enforced: bool) -> dict[str, Any]:
        sampling: dict[str, Any] = {"temperature": 1.0, "logit_bias": self.bias}
        if enforced:
            sampling["structural_tag"] = self.grammar
        return {
            "input_ids": self.ids,
            "max_tokens": tokens,
            "return_num_output_tokens": True,
            "sampling_parameters": json.dumps(sampling),
        }


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="demo-random")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16])


def run(args: argparse.Namespace) -> int:
    with serving(args.preset) as (server, checkpoint):
        vocabulary = Vocabulary.load(checkpoint)
        print(f"{'':10} {'at once':>8}" + 2 * f"{'without':>9}{'enforced':>9}{'ratio':>7}" + f"{'least':>8}{'most':>7}")
        print(f"{'':19}{'tok/s':>9}{'':16}{'tok/CPU s':>9}")
        for work in (text(vocabulary), arguments(vocabulary)):
            for level in args.concurrency:
                pairs = asyncio.run(rounds(server, work, args.tokens, args.rounds, level))
                wall, processor = ([(one[kind], two[kind]) for one, two in pairs] for kind in (0, 1))
                ends = (edge(enforced / without for without, enforced in wall) for edge in (min, max))
                print(f"{work.name:10} {level:8}{row(wall)}{row(processor)} " + "".join(f"{end:7.3f}" for end in ends))
                sys.stdout.flush()
    return 0


def row(pairs: Sequence[Rate]) -> str:
    without, enforced = (statistics.median(arm) for arm in zip(*pairs, strict=True))
    ratio = statistics.median(enforced / without for without, enforced in pairs)
    return f"{without:9.0f}{enforced:9.0f}{ratio:7.3f}"


def text(vocabulary: Vocabulary) -> Work:
    schemas = corpus()
    asked = conversation([tool(f"tool_{number}", schemas[name]) for number, name in enumerate(TOOLS)])
    ends = [*vocabulary.stop_ids, vocabulary.control(SECTION)]
    return work("text", vocabulary, asked, Bounds.demo(), dict.fromkeys(map(str, ends), NEVER))


def arguments(vocabulary: Vocabulary) -> Work:
    asked = conversation([tool("write_note", NOTE)], tool_choice="required")
    quotes = [token for token in range(vocabulary.size) if b'"' in vocabulary.token_bytes(token)]
    bias = dict.fromkeys(map(str, [*vocabulary.stop_ids, *quotes]), NEVER)
    # A quote alone opens the string, rather than a token that closes it at once.
    bias |= {str(token): NEVER / 2 for token in quotes if vocabulary.token_bytes(token).strip() == b'"'}
    return work("arguments", vocabulary, asked, Bounds.production(), bias)


def work(name: str, vocabulary: Vocabulary, asked: Conversation, bounds: Bounds, bias: dict[str, float]) -> Work:
    grammar = constrain(asked, vocabulary, bounds=bounds).structural_tag
    assert grammar is not None
    return Work(name, prompt(vocabulary, asked), grammar, bias)


async def rounds(server: Server, work: Work, tokens: int, count: int, level: int) -> list[tuple[Rate, Rate]]:
    """Both arms' rates, without first, for each pair of rounds; which arm begins changes from pair to pair."""
    pairs = []
    for number in range(count + 1):
        rates = {}
        for enforced in (number % 2 == 0, number % 2 == 1):
            rates[enforced] = await rate(server, work.body(tokens, enforced=enforced), tokens, level)
        if number:
            pairs.append((rates[False], rates[True]))
    return pairs


async def rate(server: Server, body: dict[str, Any], tokens: int, level: int) -> Rate:
    where, as_many = f"http://127.0.0.1:{server.http}", httpx.Limits(max_connections=level)
    async with httpx.AsyncClient(base_url=where, timeout=600, limits=as_many, trust_env=False) as client:
        spent, begin = processor_seconds(server), time.perf_counter()
        counts = await asyncio.gather(*[streamed(client, body) for _ in range(level)])
        seconds, spent = time.perf_counter() - begin, processor_seconds(server) - spent
    assert set(counts) == {tokens}, "an answer ended before its number of tokens"
    return tokens * level / seconds, tokens * level / spent


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> int:
    """One streamed answer of the engine model: the number of its tokens, as the server counts them."""
    count = 0
    path = "/v2/models/kimi_k2_engine/generate_stream"
    async with client.stream("POST", path, json={**body, "stream": True}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                part = json.loads(line.removeprefix("data: "))
                assert "error" not in part, part
                count += part.get("num_output_tokens", 0)
    return count


def processor_seconds(server: Server) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in server.processes())
