"""`kimi-k2 serve`: runs scripts/serve of the checkout, with all its flags."""

from __future__ import annotations

import argparse
import os

from kimi_k2_cli.checkpoint import REPOSITORY
from kimi_k2_serving.core.errors import NotFound

SCRIPT = REPOSITORY / "scripts" / "serve"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "kimi-k2 serve [FLAGS OF scripts/serve]"
    # Given as a default, for argparse takes no option as the first of REMAINDER.
    parser.set_defaults(takes_all=True)


def run(args: argparse.Namespace) -> int:
    if not SCRIPT.is_file():
        raise NotFound("the server runs from a checkout; clone the repository, then run scripts/serve", field="serve")
    os.execv(SCRIPT, [str(SCRIPT), *args.flags])
