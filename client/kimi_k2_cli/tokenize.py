"""`kimi-k2 tokenize`: reads text from standard input and writes a JSON list of token ids to standard output."""

from __future__ import annotations

import argparse
import json

from kimi_k2_cli.checkpoint import add_option, load_vocabulary
from kimi_k2_cli.given_file import read_stdin
from kimi_k2_serving.core.errors import InvalidValue


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.epilog = "example: printf 'Hello <|im_end|>' | kimi-k2 tokenize --checkpoint /models/kimi-k2"


def run(args: argparse.Namespace) -> int:
    vocabulary = load_vocabulary(args)
    try:
        text = read_stdin().decode()
    except UnicodeDecodeError:
        raise InvalidValue("not UTF-8; send the text as UTF-8", field="stdin") from None
    print(json.dumps(vocabulary.encode(text)))
    return 0
