"""SGLang's own OpenAI server, to measure beside: `python -m tests.bench.serving.sglang_server ARGUMENTS`.

With SGLANG_RUST_SERVER=1 in the environment it is the Rust server of the same package, inside the scheduler's process.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.server_args import ServerArgs

    launch_server(ServerArgs(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
