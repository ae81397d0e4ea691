"""What core promises of its speed, in one run: the parser, then the prompt. One JSON object.

    scripts/bench core [--checkpoint DIR] [--tokens 200000]

`--checkpoint` needs tiktoken.model and tokenizer_config.json; the demo's is taken otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.server.running import ROOT

DEMO = ROOT / ".cache" / "checkpoints" / "demo"


def run(module: str, *arguments: str) -> Any:
    """A process of its own each, so that neither warms the other's caches."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench core", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    parser.add_argument("--tokens", type=int, default=200_000, help="of the conversation")
    args = parser.parse_args()
    checkpoint = ("--checkpoint", str(args.checkpoint.absolute()))
    result = {
        "parser": run("parser", "--reference", *checkpoint),
        "prompt": run("prompt", "--tokens", str(args.tokens), *checkpoint),
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
