"""`kimi-k2 chat`: one prompt, or a conversation in the terminal, with streamed answers.

Content goes to standard output, everything else to standard error, so that a pipe gets only the answer. With `--json`
standard output has one JSON object per event instead. Ctrl-C cancels only the generation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kimi_k2_cli import sampling, server
from kimi_k2_cli.given_file import text_argument
from kimi_k2_cli.prompt import prompt_of
from kimi_k2_cli.repl import WORDS, Ask, Repl
from kimi_k2_cli.screen import JsonLines, Screen, printable
from kimi_k2_cli.session import ChatSession
from kimi_k2_cli.tools_file import read_tools, tool_choice
from kimi_k2_client import Client, InvalidRequest, KimiError
from kimi_k2_serving.settings import Settings

INTERRUPTED = 130  # the exit code that shells report after Ctrl-C
EXAMPLE = """\
examples:
  kimi-k2 chat "What is a sparse mixture of experts?"
  git diff | kimi-k2 chat --system "Write a commit message for this diff."
  kimi-k2 chat --tools tools.json --json "What is the weather in Lisbon?" | jq .
  kimi-k2 chat                       a conversation; /help lists its commands
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "prompt", nargs="?", type=text_argument, help="the user's message; without it standard input is read"
    )
    server.add_options(parser)
    parser.add_argument("--system", metavar="TEXT", type=text_argument, help="the system message")
    parser.add_argument("--tools", metavar="FILE", type=Path, help="a JSON file with a list of OpenAI tools")
    parser.add_argument(
        "--tool-choice", metavar="CHOICE", help="auto (default), none, required, or the name of one of the tools"
    )
    sampling.add_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per event on standard output")


def run(args: argparse.Namespace) -> int:
    running = server.here()
    url = server.server_url(args.url, grpc=args.grpc, running=running)
    options: dict[str, Any] = {
        "tools": read_tools(args.tools),
        "tool_choice": tool_choice(args.tool_choice),
        **sampling.options_of(args, default_tokens=server.default_tokens(url, running)),
    }
    own = server.server_at(url, running)
    what = "the demo model" if own is not None and own.demo else "kimi_k2"
    banner = f"{what} at {url}; /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves"
    with Client(url) as client:
        return converse(client, args.prompt, system=args.system, as_json=args.json, options=options, banner=banner)


def converse(
    client: Client,
    prompt: str | None,
    *,
    system: str | None,
    as_json: bool,
    options: Mapping[str, Any],
    ask: Ask | None = None,
    banner: str = "",
) -> int:
    """Get one answer. Without a prompt on a terminal, get answers until the input ends. Returns the exit code."""
    screen = JsonLines(sys.stdout) if as_json else Screen.on(sys.stdout, sys.stderr)
    session = ChatSession(client, screen, options)
    if system is not None:
        session.set_system(system)
    if prompt is None and sys.stdin is not None and sys.stdin.isatty():
        return Repl(session, ask or keyboard()).run(banner)
    session.messages.append({"role": "user", "content": prompt_of(prompt)})
    try:
        session.answer()
    except KimiError as error:
        return failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def keyboard() -> Ask:
    from kimi_k2_cli.keyboard import Keyboard

    return Keyboard(WORDS, Settings.read().cache / "chat_history")


def failed(error: KimiError) -> int:
    print(f"kimi-k2 chat: {printable(server.explained(error))}", file=sys.stderr)
    return 2 if isinstance(error, InvalidRequest) else 1
