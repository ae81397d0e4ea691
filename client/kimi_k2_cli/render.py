"""`kimi-k2 render`: an OpenAI chat request on standard input, the K2 prompt it becomes on standard output.

The answer is a JSON object: `prompt` for people, `input_ids` for the engine, and `segments`, which tells control tokens
(`{"control": name}`) from text that may only look like them (`{"text": text}`).
"""

from __future__ import annotations

import argparse
import json
import sys

from kimi_k2_cli import request
from kimi_k2_cli.checkpoint import add_option, load_vocabulary
from kimi_k2_serving.core.render import Control, Segment, render

HELP = "an OpenAI chat request on stdin -> the K2 prompt, its ids and its segments"


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.epilog = """example: echo '{"messages": [{"role": "user", "content": "hi"}]}' | kimi-k2 render"""


def run(args: argparse.Namespace) -> int:
    conversation = request.from_stdin()
    vocabulary = load_vocabulary(args)
    prompt = render(conversation, sort_tool_keys=vocabulary.sort_tool_keys)
    answer = {
        "prompt": prompt.text(),
        "input_ids": vocabulary.encode_prompt(prompt.segments).tolist(),
        "segments": [_shown(segment) for segment in prompt.segments],
    }
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    return 0


def _shown(segment: Segment) -> dict[str, str]:
    return {"control": segment.name} if isinstance(segment, Control) else {"text": segment.text}
