"""`kimi-k2 complete`: writes the engine's continuation of a text, without a chat template, to standard output."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from kimi_k2_cli import sampling, server
from kimi_k2_cli.given_file import text_argument
from kimi_k2_cli.prompt import prompt_of
from kimi_k2_cli.screen import printable
from kimi_k2_client import Client, Finished, TokensDelta


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", type=text_argument, help="the text; without it standard input is read")
    server.add_options(parser)
    sampling.add_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per event on standard output")


def run(args: argparse.Namespace) -> int:
    running = server.here()
    url = server.server_url(args.url, grpc=args.grpc, running=running)
    prompt = prompt_of(args.prompt)
    options = sampling.options_of(args, default_tokens=server.default_tokens(url, running))
    with Client(url) as client, client.complete_stream(prompt, **options) as events:
        for event in events:
            show(event, as_json=args.json)
    return 0


def show(event: TokensDelta | Finished, *, as_json: bool) -> None:
    if isinstance(event, TokensDelta):
        if as_json:
            print(json.dumps({"type": "content", "text": event.text, "ids": event.ids}, ensure_ascii=False), flush=True)
        else:
            print(printable(event.text) if sys.stdout.isatty() else event.text, end="", flush=True)
        return
    usage = asdict(event.usage) if event.usage else None
    if as_json:
        print(json.dumps({"type": "finished", "finish_reason": event.finish_reason.value, "usage": usage}), flush=True)
    else:
        print(flush=True)
        print(f"[{event.finish_reason.value}]", file=sys.stderr)
