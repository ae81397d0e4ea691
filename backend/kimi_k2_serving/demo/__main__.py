"""`python -m kimi_k2_serving.demo --output DIR`: build the demo checkpoint.

Exit codes: 0 done, 2 the arguments were wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.demo.build import DemoWeights, build_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kimi_k2_serving.demo", description="Build the demo checkpoint: K2's architecture at toy size."
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the checkpoint's directory")
    names = [weights.value for weights in DemoWeights]
    parser.add_argument("--weights", choices=names, default=DemoWeights.TRAINED.value, help="(default: trained)")
    parser.add_argument("--force", action="store_true", help="rebuild even if the checkpoint is up to date")
    args = parser.parse_args(argv)
    try:
        build_checkpoint(args.output, DemoWeights(args.weights), force=args.force, report=_report)
    except ServingError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
