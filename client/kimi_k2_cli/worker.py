"""`kimi-k2 worker --preset h200-16 --node-rank 1`: runs a further node of an engine that spans several machines.

Rank 0's node runs Triton and announces each start; this node then runs its ranks, with rank 0's arguments.
`GET /health` answers 200 while it serves, and 503 with the reason otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

from kimi_k2_cli.checkpoint import add_option, resolve
from kimi_k2_serving import logs, settings
from kimi_k2_serving.core.errors import InvalidValue, NotFound, Unsupported

if TYPE_CHECKING:
    from kimi_k2_serving.engine.nodes.worker import NodeWorker

HEALTH_SECONDS = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"{parser.epilog}\n"
        "Needs the server's packages. Exit codes: 0 stopped by SIGTERM; 1 the engine's start is over and rank 0 has "
        "restart: pod; 2 rank 0 refused this node, or the arguments are wrong; 3 rank 0 did not begin in time."
    )
    parser.add_argument("--preset", required=True, metavar="NAME", help="rank 0's preset")
    parser.add_argument("--node-rank", required=True, type=int, metavar="N", help="this node's number, from 1")
    parser.add_argument("--address", metavar="HOST:PORT", help="rank 0's (default: KIMI_K2_DIST_INIT_ADDR)")
    parser.add_argument("--health-host", default="127.0.0.1", metavar="HOST", help="default: %(default)s")
    parser.add_argument("--health-port", type=int, default=8003, metavar="PORT", help="default: %(default)s")
    add_option(parser)


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("sglang") is None:
        raise Unsupported("needs the server's packages: pip install 'kimi-k2-triton[serve]'")
    from kimi_k2_serving.engine import build, linux
    from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
    from kimi_k2_serving.engine.config import DIST_INIT_ADDR, engine_of_preset
    from kimi_k2_serving.engine.nodes.directory import worker_directory

    linux.keep_private()
    logs.begin("worker", text="%(asctime)s worker %(levelname)s %(message)s")
    environ = settings.inherited() | ({DIST_INIT_ADDR: args.address} if args.address else {})
    try:
        checkpoint = inspect_checkpoint(resolve(args.checkpoint))
    except NotFound as error:
        # Exit code 1 is reserved for the end of a start.
        raise InvalidValue(error.detail, field="--checkpoint") from None
    config = engine_of_preset(checkpoint.path, args.preset, environ)
    with worker_directory(settings.runtime_base()) as runtime:
        worker = build.build_worker(
            config,
            checkpoint,
            rank=args.node_rank,
            address=build.meeting_address(config, environ),
            cache=settings.Settings.read().cache,
            runtime=runtime,
            environ=environ,
        )
        return asyncio.run(until_stopped(worker, args.health_host, args.health_port))


async def until_stopped(worker: NodeWorker, health_host: str, health_port: int) -> int:
    """Run the worker until it ends, or until SIGTERM or SIGINT, after which nothing of it is left."""
    running = asyncio.ensure_future(worker.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    # Only now: whoever sees that the worker is healthy may stop it.
    health = serve_health(worker, health_host, health_port)
    try:
        return int(await running)
    except asyncio.CancelledError:
        return 0
    finally:
        health.shutdown()


def serve_health(worker: NodeWorker, host: str, port: int) -> ThreadingHTTPServer:
    class Health(BaseHTTPRequestHandler):
        timeout = HEALTH_SECONDS

        def do_GET(self) -> None:
            trouble = worker.trouble if self.path == "/health" else "only /health is here"
            body = json.dumps({"serving": not trouble, "trouble": trouble}).encode()
            self.send_response(503 if trouble else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes are not logged."""

    try:
        server = ThreadingHTTPServer((host, port), Health)
    except OSError as error:
        raise InvalidValue(f"can't listen there: {error.strerror}; name another", field="--health-port") from None
    server.daemon_threads = True
    Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
