"""What a prompt costs: a coding agent's conversation, rendered and encoded cold and again at its next turn.

    scripts/bench prompt --checkpoint DIR [--tokens 200000] [--repeat 15] [--no-tokenizers]

Prints one JSON object; times are in milliseconds. The ratios are of medians of processor time, which other work on the
machine disturbs least. Every repetition decodes the request from JSON anew, so that no text is an object that was seen
before, and runs all contenders in turn. The contenders encode the same prompt as one string with control tokens on:
`tiktoken` with the same ranks, and `tokenizers` with the converted tokenizer.json (it needs the `serve` extra).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiktoken import Encoding

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.render import render
from kimi_k2_serving.core.tokens import PATTERN, Vocabulary
from kimi_k2_serving.core.vocabulary_files import read_vocabulary

LINES_PER_RESULT = 100
NEW_TEXT = "Good. Now run the tests again and tell me what is left to do. " * 8


def source_lines() -> Iterator[str]:
    """The standard library's own code, over and over: text that is everywhere and like what an agent reads."""
    library = Path(json.__file__).parents[1]
    files = sorted(library.glob("asyncio/*.py")) + sorted(library.glob("*.py"))
    while True:
        for file in files:
            yield from file.read_text(encoding="utf-8").splitlines(keepends=True)


def agent_request(vocabulary: Vocabulary, tokens: int) -> dict[str, Any]:
    """A system message, a task, and calls that read files until the prompt has about `tokens` tokens."""
    parameters = {f"p{i}": {"type": "string", "description": "What the tool works on. " * 3} for i in range(8)}
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{i}",
                "description": "What the tool is for, at length. " * 8,
                "parameters": {"type": "object", "properties": parameters, "required": ["p0"]},
            },
        }
        for i in range(30)
    ]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are a careful engineer. " * 50},
        {"role": "user", "content": "Find out why the event loop hangs."},
    ]
    lines = source_lines()
    count = len(vocabulary.encode(json.dumps(tools)))
    turn = 0
    while count < tokens:
        text = "".join(next(lines) for _ in range(LINES_PER_RESULT))
        arguments = json.dumps({"path": f"/src/file_{turn}.py", "limit": LINES_PER_RESULT})
        call = {"id": f"call_{turn:08x}", "type": "function", "function": {"name": "tool_0", "arguments": arguments}}
        messages.append({"role": "assistant", "content": f"Next, file {turn}.", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        count += len(vocabulary.encode(text)) + 45
        turn += 1
    return {"messages": messages, "tools": tools}


class Clock:
    """Times by name, in milliseconds: of the processor, and on the wall."""

    def __init__(self) -> None:
        self.processor: dict[str, list[float]] = {}
        self.wall: dict[str, list[float]] = {}

    def time(self, name: str, work: Callable[..., Any], *args: Any, **named: Any) -> Any:
        wall, processor = time.perf_counter(), time.thread_time()
        result = work(*args, **named)
        self.processor.setdefault(name, []).append((time.thread_time() - processor) * 1e3)
        self.wall.setdefault(name, []).append((time.perf_counter() - wall) * 1e3)
        return result


def summary(times: dict[str, list[float]], of: Callable[[list[float]], float]) -> dict[str, float]:
    return {name: round(of(values), 3) for name, values in times.items()}


def decode(body: str) -> Any:
    return strict_json.loads(body, field="body")


def prompt_ids(vocabulary: Vocabulary, conversation: Conversation) -> array[int]:
    return vocabulary.encode_prompt(render(conversation, sort_tool_keys=vocabulary.sort_tool_keys).segments)


def tokenizers_encode(checkpoint: Path) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, tokenizer_directory

    with tempfile.TemporaryDirectory() as cache:
        directory = tokenizer_directory(inspect_checkpoint(checkpoint), Path(cache))
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def measure(checkpoint: Path, tokens: int, repeat: int, with_tokenizers: bool) -> dict[str, Any]:
    files = read_vocabulary(checkpoint)
    request = agent_request(Vocabulary(files), tokens)
    body = json.dumps(request)
    new_message = {"role": "user", "content": NEW_TEXT}
    next_body = json.dumps({**request, "messages": [*request["messages"], new_message]})
    ranks = {token: rank for rank, token in enumerate(files.tokens)}
    tiktoken = Encoding("whole", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=files.controls)
    converted = tokenizers_encode(checkpoint) if with_tokenizers else None
    clock = Clock()
    for _ in range(repeat):
        vocabulary = Vocabulary(files)
        vocabulary.encode(body)  # The pattern's automaton is built as it is used; its caches are not ours.
        conversation = read_conversation(**decode(body))
        ids = clock.time("cold", prompt_ids, vocabulary, conversation)
        text = render(conversation).text()
        assert clock.time("tiktoken", tiktoken.encode, text, allowed_special="all") == ids.tolist()
        value = clock.time("next_json", decode, next_body)
        following = clock.time("next_read", read_conversation, **value)
        clock.time("next", prompt_ids, vocabulary, following)
        clock.time("new_text", vocabulary.encode, NEW_TEXT)
        if converted is not None:
            assert clock.time("tokenizers", converted, text) == ids.tolist()
    return report(clock, len(ids), len(text), len(request["messages"]))


def report(clock: Clock, tokens: int, characters: int, messages: int) -> dict[str, Any]:
    processor = summary(clock.processor, statistics.median)
    ratios = {
        "cold_over_tiktoken": round(processor["cold"] / processor["tiktoken"], 3),
        "next_less_new_text_ms": round(processor["next"] - processor["new_text"], 3),
        "next_over_tiktoken": round(processor["next"] / processor["tiktoken"], 4),
    }
    if "tokenizers" in processor:
        ratios["cold_over_tokenizers"] = round(processor["cold"] / processor["tokenizers"], 3)
    return {
        "tokens": tokens,
        "characters": characters,
        "messages": messages,
        "processor_median_ms": processor,
        "wall_median_ms": summary(clock.wall, statistics.median),
        "wall_least_ms": summary(clock.wall, min),
        **ratios,
        "goals": {"cold_over_tiktoken": 1.2, "next_less_new_text_ms": 5.0},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench prompt", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--no-tokenizers", action="store_true")
    args = parser.parse_args()
    print(json.dumps(measure(args.checkpoint, args.tokens, args.repeat, not args.no_tokenizers), indent=1))


if __name__ == "__main__":
    main()
