"""`kimi-k2 COMMAND`: one module per command, imported only if it is the given command (see commands.py).

Exit codes: 0 success, 1 the command failed, 2 the request was wrong, 130 Ctrl-C. An error becomes one line on standard
error; a wrong option also shows the command's usage.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from kimi_k2_cli.commands import COMMANDS, overview
from kimi_k2_serving import __version__
from kimi_k2_serving.core.errors import InvalidRequest, ServingError

INTERRUPTED = 130  # the exit code that shells report after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    if first in ("--version", "version"):
        print(f"kimi-k2-triton {__version__}")
        return 0
    if first not in COMMANDS:
        print(f"kimi-k2: there is no command {first!r}; {_suggestion(first)}", file=sys.stderr)
        return 2
    return _run(first, arguments[1:])


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command; imports its module."""
    summary = COMMANDS[name].summary
    parser = argparse.ArgumentParser(
        prog=f"kimi-k2 {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.epilog = f"example: kimi-k2 {COMMANDS[name].example}"
    importlib.import_module(COMMANDS[name].module).configure(parser)
    return parser


def _suggestion(word: str) -> str:
    import difflib

    if near := difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75):
        return f"did you mean `kimi-k2 {near[0]}`? `kimi-k2 --help` lists all"
    return f"one of: {', '.join(COMMANDS)}"


def _run(name: str, arguments: list[str]) -> int:
    from kimi_k2_client.errors import InvalidRequest as WrongRequest
    from kimi_k2_client.errors import KimiError

    parser = parser_of(name)
    if parser.get_default("takes_all"):
        args, others = parser.parse_known_args(arguments)
        args.flags = [word for word in others if word != "--"]
    else:
        args = parser.parse_intermixed_args(arguments)
    try:
        return int(importlib.import_module(COMMANDS[name].module).run(args))
    except (ServingError, KimiError) as error:
        from kimi_k2_cli.server import explained

        print(f"kimi-k2 {name}: {explained(error)}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest | WrongRequest) else 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except OSError as error:
        # A file that can't be written, a disk that is full.
        place = f"{error.filename}: " if error.filename else ""
        print(f"kimi-k2 {name}: {place}{error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
