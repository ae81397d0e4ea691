"""`kimi-k2 render`: reads an OpenAI chat request from standard input and writes the K2 prompt that it becomes to
standard output.

The output is a JSON object: `prompt` for people, `input_ids` for the engine, and `segments`, which distinguishes
control tokens (`{"control": name}`) from text that may only look like them (`{"text": text}`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kimi_k2_cli import request
from kimi_k2_cli.checkpoint import add_option, load_vocabulary, resolve
from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.render import Control, Form, Segment
from kimi_k2_serving.engine.template_probe import form_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.epilog = """example: echo '{"messages": [{"role": "user", "content": "hi"}]}' | kimi-k2 render"""


def run(args: argparse.Namespace) -> int:
    conversation = request.from_stdin()
    vocabulary = load_vocabulary(args)
    prompt = _form(resolve(args.checkpoint), sorts=vocabulary.sort_tool_keys).prompt(conversation)
    answer = {
        "prompt": prompt.text(),
        "input_ids": vocabulary.encode_prompt(prompt.segments).tolist(),
        "segments": [_shown(segment) for segment in prompt.segments],
    }
    sys.stdout.buffer.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    return 0


def _form(checkpoint: Path, *, sorts: bool) -> Form:
    """The form that the server would use. If jinja2 is missing or the checkpoint's template differs from every known
    form, a line on standard error says so, and the prompt is that of 0905.
    """
    try:
        return form_of(checkpoint, sorts=sorts)
    except (InvalidValue, NotFound) as error:
        print(f"kimi-k2 render: {error}; this prompt is that of 0905", file=sys.stderr)
        return Form(sort_tool_keys=sorts)


def _shown(segment: Segment) -> dict[str, str]:
    return {"control": segment.name} if isinstance(segment, Control) else {"text": segment.text}
