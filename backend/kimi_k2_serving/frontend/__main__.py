"""`python -m kimi_k2_serving.frontend --help`. The code is in `server`: workers can't unpickle from `__main__`."""

from __future__ import annotations

import sys

from kimi_k2_serving.frontend.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
