"""`kimi-k2 detokenize`: reads a JSON list of token ids from standard input and writes their text to standard output."""

from __future__ import annotations

import argparse
import sys

from kimi_k2_cli.checkpoint import add_option, load_vocabulary
from kimi_k2_cli.given_file import read_stdin
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidType
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from kimi_k2_serving.core.typed_json import as_list


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.add_argument(
        "--controls", action="store_true", help="write control tokens by their names instead of nothing"
    )
    parser.epilog = "example: echo '[19180, 163586]' | kimi-k2 detokenize --checkpoint /models/kimi-k2"


def run(args: argparse.Namespace) -> int:
    vocabulary = load_vocabulary(args)
    ids = []
    for i, token in enumerate(as_list(strict_json.loads(read_stdin(), field="stdin"), "stdin")):
        if not isinstance(token, int) or isinstance(token, bool):
            raise InvalidType("must be an integer", field=f"stdin[{i}]")
        ids.append(token)
    text = _with_controls(vocabulary, ids) if args.controls else _text(vocabulary, ids)
    sys.stdout.buffer.write(text.encode())
    return 0


def _text(vocabulary: Vocabulary, ids: list[int]) -> str:
    decoder = TextDecoder(vocabulary)
    return decoder.feed(ids) + decoder.finish()


def _with_controls(vocabulary: Vocabulary, ids: list[int]) -> str:
    names = {identity: name for name, identity in vocabulary.controls.items()}
    written: list[str] = []
    run_of_text: list[int] = []
    for token in ids:
        if token in names:
            written += (_text(vocabulary, run_of_text), names[token])
            run_of_text = []
        else:
            run_of_text.append(token)
    return "".join((*written, _text(vocabulary, run_of_text)))
