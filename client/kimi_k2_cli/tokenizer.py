"""`kimi-k2 tokenizer --export DIR`: the checkpoint's tokenizer in the form that benchmark tools load.

Writes `tokenizer.json` and `tokenizer_config.json`, which encode as the server does and need no remote code.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

from kimi_k2_cli.checkpoint import add_option, resolve
from kimi_k2_serving.core.errors import InvalidValue, Unsupported
from kimi_k2_serving.settings import Settings

FILES = ("tokenizer.json", "tokenizer_config.json")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: kimi-k2 tokenizer --export tokenizer && aiperf profile --tokenizer ./tokenizer ..."
    parser.add_argument("--export", type=Path, required=True, metavar="DIR", help="where to write the two files")
    add_option(parser)
    parser.add_argument("--force", action="store_true", help="write into a directory that is not empty")


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("tokenizers") is None:
        raise Unsupported("needs the server's packages: pip install 'kimi-k2-triton[serve]'")
    export(resolve(args.checkpoint), args.export, cache=Settings.read().cache, force=args.force)
    print(f"wrote {' and '.join(FILES)} to {args.export}")
    return 0


def export(checkpoint: Path, target: Path, *, cache: Path, force: bool = False) -> None:
    """Write the two files. Raises InvalidValue for a target that is a file, or not empty unless `force`."""
    from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2, tokenizer_directory

    if target.exists() and not target.is_dir():
        raise InvalidValue("is an existing file; name a directory", field="--export")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise InvalidValue("the directory is not empty; name another one or add --force", field="--export")
    found = inspect_checkpoint(checkpoint)
    require_k2(found)
    source = tokenizer_directory(found, cache)
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
