"""`kimi-k2 wait`: ends as soon as the model takes requests, or with exit code 1 after the time limit."""

from __future__ import annotations

import argparse
import json
import time

from kimi_k2_cli import server
from kimi_k2_client import Client


def configure(parser: argparse.ArgumentParser) -> None:
    server.add_options(parser)
    parser.add_argument("--timeout", metavar="S", type=float, default=300.0, help="seconds to wait (default: 300)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    url = server.server_url(args.url, grpc=args.grpc, running=server.here())
    begun = time.monotonic()
    with Client(url, timeout=10) as client:
        client.wait_ready(args.timeout)
    seconds = time.monotonic() - begun
    print(
        json.dumps({"url": url, "seconds": round(seconds, 2)}) if args.json else f"{url}: ready after {seconds:.1f} s"
    )
    return 0
