"""`kimi-k2 render`: an OpenAI chat request on standard input, the K2 prompt it becomes on standard output.

The answer is a JSON object: `prompt` for people, `input_ids` for the engine, and `segments`, which tells control tokens
(`{"control": name}`) from text that may only look like them (`{"text": text}`).
"""

from __future__ import annotations

import argparse
import json
import sys

from kimi_k2_cli.checkpoint import add_option, load_vocabulary
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.render import Control, Segment, render
from kimi_k2_serving.core.shapes import as_flag, as_object

HELP = "an OpenAI chat request on stdin -> the K2 prompt, its ids and its segments"


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.epilog = """example: echo '{"messages": [{"role": "user", "content": "hi"}]}' | kimi-k2 render"""


def run(args: argparse.Namespace) -> int:
    request = as_object(strict_json.loads(sys.stdin.buffer.read(), field="stdin"), "stdin")
    conversation = read_conversation(
        messages=request.get("messages"),
        tools=request.get("tools"),
        tool_choice=request.get("tool_choice"),
        response_format=request.get("response_format"),
        parallel_tool_calls=as_flag(request.get("parallel_tool_calls"), "parallel_tool_calls", default=True),
    )
    vocabulary = load_vocabulary(args)
    prompt = render(conversation, sort_tool_keys=vocabulary.sort_tool_keys)
    answer = {
        "prompt": prompt.text(),
        "input_ids": vocabulary.encode_prompt(prompt.segments),
        "segments": [_shown(segment) for segment in prompt.segments],
    }
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    return 0


def _shown(segment: Segment) -> dict[str, str]:
    return {"control": segment.name} if isinstance(segment, Control) else {"text": segment.text}
