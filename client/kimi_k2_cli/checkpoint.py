"""`--checkpoint DIR` for the commands that need a vocabulary, and its default."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from kimi_k2_serving.core.errors import MissingField
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.settings import CHECKPOINT, Settings

DEMO = Path(".cache", "checkpoints", "demo")
REPOSITORY = Path(__file__).resolve().parents[2]


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help=f"a directory with tiktoken.model and tokenizer_config.json (default: ${CHECKPOINT}, else {DEMO})",
    )


def resolve(given: Path | None, *, repository: Path = REPOSITORY, environment: Mapping[str, str] | None = None) -> Path:
    """The given directory, else the environment's, else the demo's if it was built. Raises MissingField if there is
    none.
    """
    if given is not None:
        return given
    if (named := Settings.read(environment).checkpoint) is not None:
        return named
    demo = repository / DEMO
    if demo.is_dir():
        return demo
    raise MissingField(
        f"name the model's directory, set {CHECKPOINT}, or build the demo with scripts/serve --prepare-only",
        field="--checkpoint",
    )


def load_vocabulary(args: argparse.Namespace) -> Vocabulary:
    return Vocabulary.load(resolve(args.checkpoint))
