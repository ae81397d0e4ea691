"""The enforcer on the real server: scripts/bench enforcer corpus | accuracy | throughput | first [options]."""

from __future__ import annotations

import argparse
import importlib
import sys

WHAT = ("corpus", "accuracy", "throughput", "first")


def main() -> int:
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what not in WHAT:
        print(__doc__, file=sys.stderr)
        return 2
    module = importlib.import_module(f"tests.bench.enforcer.{what}")
    parser = argparse.ArgumentParser(
        prog=f"scripts/bench enforcer {what}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    return int(module.run(parser.parse_args(sys.argv[2:])))


if __name__ == "__main__":
    sys.exit(main())
