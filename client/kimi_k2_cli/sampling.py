"""The sampling options of the commands that ask for an answer."""

from __future__ import annotations

import argparse
from typing import Any

from kimi_k2_cli.given_file import text_argument

NAMES = ("temperature", "top_p", "seed", "stop")


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        help="maximum tokens of an answer (default: 256 for the demo model, else the rest of the context)",
    )
    group.add_argument("--temperature", metavar="T", type=float, help="0 (the likeliest token) to 2")
    group.add_argument("--top-p", metavar="P", type=float, help="more than 0, at most 1")
    group.add_argument("--seed", metavar="N", type=int, help="for engines that are deterministic")
    group.add_argument(
        "--stop", metavar="TEXT", action="append", type=text_argument, help="a string that ends the answer; repeatable"
    )


def options_of(args: argparse.Namespace, *, default_tokens: int | None) -> dict[str, Any]:
    """The client's options. `default_tokens` is the default of --max-tokens, None for no limit."""
    tokens = default_tokens if args.max_tokens is None else args.max_tokens
    return {"max_tokens": tokens, **{name: getattr(args, name) for name in NAMES}}
