"""`python -m kimi_k2_serving.frontend --help`. A worker can not be unpickled from here, hence process.py."""

from __future__ import annotations

import sys

from kimi_k2_serving.frontend.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
