"""`kimi-k2 COMMAND`: one module per command, imported only if it is the given command.

A command module has `configure(parser)` and `run(args) -> int`. Exit codes: 0 success, 1 the command failed, 2 the
request was wrong. A ServingError becomes one line on standard error.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from kimi_k2_serving.core.errors import InvalidRequest, ServingError

# command -> (module, one line of help). The help is here so that `--help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "render": ("kimi_k2_cli.render", "an OpenAI chat request on stdin -> the K2 prompt, its ids and its segments"),
    "tokenize": ("kimi_k2_cli.tokenize", "text on stdin -> a JSON list of ids; control tokens are plain text"),
    "detokenize": ("kimi_k2_cli.detokenize", "a JSON list of ids on stdin -> text"),
    "parse": ("kimi_k2_cli.parse", "an answer's ids or text on stdin -> OpenAI deltas, one JSON object per line"),
    "grammar": (
        "kimi_k2_cli.grammar",
        "an OpenAI chat request on stdin -> the grammar of its answer, and random answers to test it",
    ),
    "tokenizer": ("kimi_k2_cli.tokenizer", "write the checkpoint's tokenizer.json to a directory"),
    "plan": ("kimi_k2_cli.plan", "GPUs -> whether K2 fits, the preset, the tokens in the cache, and rooflines"),
    "worker": ("kimi_k2_cli.worker", "run a further node of an engine that spans several; rank 0 is Triton's node"),
    "chat": ("kimi_k2_cli.chat", "talk to a running server: one prompt, or a conversation in the terminal"),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="kimi-k2",
        description="Kimi K2 on Triton: inspect prompts, tokens and tool calls with the code that serves them.",
        epilog="`kimi-k2 COMMAND --help` shows a command's options and an example.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in arguments if word in COMMANDS), None)
    for name, (module, line) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=line, description=line, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == wanted:
            importlib.import_module(module).configure(subparser)
    args = parser.parse_args(arguments)
    try:
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args))
    except ServingError as error:
        print(f"kimi-k2 {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
