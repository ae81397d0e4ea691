"""The frontend's process: its flags, and as many workers as asked for.

A worker that dies is started again. SIGTERM closes the port, lets what is in flight finish within `--grace` seconds,
ends the rest with one error each, and exits 0. Exit code 2: the flags are wrong, and the line says why.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from kimi_k2_serving import settings
from kimi_k2_serving.chat.model import ChatModel, bounds
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.limits import IDLE_SECONDS
from kimi_k2_serving.engine.config import CPU_PRESET, EngineConfig, engine_of_preset, load_engine_config
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.connections import Connection, raise_limit, watch_accepts
from kimi_k2_serving.frontend.hosts import Hosts, is_loopback
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.metrics import FrontendMetrics
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reader import Description
from kimi_k2_serving.frontend.readers import Readers
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.frontend.triton_engine import TritonEngine

NAME = "kimi_k2"
# prometheus_client's own variable, read when a worker imports it: where the workers' counters add up.
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class FrontendOptions:
    """The flags, checked. `engine` is what the engine model was told, as far as it is known here; `names`: served model
    ids, the first is the model's own; `grace` in seconds.
    """

    host: str
    port: int
    grpc_url: str
    engine: EngineConfig
    names: tuple[str, ...]
    workers: int
    keys: Keys
    grace: int
    policy: Policy
    allowed_hosts: tuple[str, ...] = ()

    @property
    def hosts(self) -> Hosts | None:
        """The names to answer under: keys, and binds that others reach, need no such check."""
        if self.keys.keys or not is_loopback(self.host):
            return None
        return Hosts.of(socket.gethostname(), *self.allowed_hosts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kimi_k2_serving.frontend",
        description="OpenAI's and Anthropic's APIs in front of a Triton server with the kimi_k2_engine model.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    add("--port", type=int, default=9000, help="port to bind (%(default)s)")
    add("--grpc-url", metavar="HOST:PORT", default="127.0.0.1:8001", help="Triton's gRPC (%(default)s)")
    add("--checkpoint", metavar="DIR", type=Path, help="the model's checkpoint (KIMI_K2_CHECKPOINT)")
    add("--preset", metavar="NAME", help=f"the engine's preset (KIMI_K2_PRESET, else {CPU_PRESET})")
    add("--model-repository", metavar="DIR", type=Path, help="Triton's, where its engine.yaml differs from the preset")
    add("--model-alias", metavar="ID", action="append", default=[], help=f"serve {NAME} under this id too; repeatable")
    add("--workers", metavar="N", type=int, default=1, help="processes (%(default)s)")
    add("--api-key-file", metavar="FILE", type=Path, help="keys, one a line; see docs/api.md")
    add(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="answer under this name too, where there are no keys and --host is this machine alone; repeatable",
    )
    add("--grace", metavar="S", type=int, default=5, help="seconds for requests in flight at the end (%(default)s)")
    add("--keep-alive", metavar="S", type=float, default=15.0, help="longest silence of a stream (%(default)s)")
    add("--in-flight", metavar="N", type=int, default=1024, help="requests at once, per worker (%(default)s)")
    add(
        "--anthropic-temperature",
        metavar="FACTOR",
        type=float,
        default=0.6,
        help="what /v1/messages multiplies temperatures by (%(default)s, as Moonshot does; 1 is off)",
    )
    return parser


def parse_flags(argv: Sequence[str], environ: Mapping[str, str]) -> FrontendOptions:
    """Ends the process with code 2 and one line for flags that are wrong. Raises ServingError for files that are."""
    parser = _parser()
    given = parser.parse_args(argv)
    inherited = settings.Settings.read(environ)
    checkpoint = given.checkpoint or inherited.checkpoint
    if checkpoint is None:
        parser.error("give --checkpoint DIR")
    for name in ("workers", "in_flight", "keep_alive"):
        if getattr(given, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be more than 0")
    if not 0 < given.anthropic_temperature <= 2:
        parser.error("--anthropic-temperature must be more than 0 and at most 2")
    return FrontendOptions(
        host=given.host,
        port=given.port,
        grpc_url=given.grpc_url,
        engine=_engine(given.model_repository, checkpoint, given.preset or inherited.preset or CPU_PRESET, environ),
        names=tuple(dict.fromkeys((NAME, *given.model_alias))),
        workers=given.workers,
        keys=Keys.load(given.api_key_file) if given.api_key_file else Keys(),
        grace=given.grace,
        policy=Policy(
            keep_alive=given.keep_alive,
            in_flight=given.in_flight,
            workers=given.workers,
            anthropic_temperature=given.anthropic_temperature,
        ),
        allowed_hosts=tuple(given.allowed_host),
    )


def _engine(repository: Path | None, checkpoint: Path, preset: str, environ: Mapping[str, str]) -> EngineConfig:
    if repository is None:
        return engine_of_preset(checkpoint, preset, environ)
    told = {**environ, settings.CHECKPOINT: str(checkpoint), settings.PRESET: preset}
    return load_engine_config(repository / "kimi_k2_engine" / "1" / "engine.yaml", told)


def application(options: FrontendOptions) -> ASGIApp:
    """One worker's application."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _end_with_parent()
    model = ChatModel.load(options.engine, names=options.names)
    engine = TritonEngine(options.grpc_url)
    metrics = FrontendMetrics(shared=options.workers > 1)
    described = Description.of(model, options.engine.checkpoint, bounds(options.engine, model.form), options.policy)
    readers = Readers(msgspec.json.encode(described))
    service = Service(model, engine, options.keys, options.policy, metrics, readers=readers, hosts=options.hosts)

    async def opened() -> None:
        watch_accepts(asyncio.get_running_loop())
        await engine.open()
        await readers.open()

    return create_app(service, opened=opened)


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody left who would restart or stop it: it drains."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        try:
            multiprocessing.connection.wait([parent.sentinel])
        except OSError:
            # No descriptor or memory to wait with: ask now and then.
            while parent.is_alive():
                time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def configuration(options: FrontendOptions) -> uvicorn.Config:
    return uvicorn.Config(
        functools.partial(application, options),
        factory=True,
        host=options.host,
        port=options.port,
        workers=options.workers,
        timeout_graceful_shutdown=options.grace,
        http=Connection,
        loop="asyncio",
        timeout_keep_alive=IDLE_SECONDS.value,
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=2048,
    )


def serve(options: FrontendOptions) -> None:
    raise_limit()
    config = configuration(options)
    if options.workers == 1:
        uvicorn.Server(config).run()
        return
    with tempfile.TemporaryDirectory(prefix="kimi-k2-metrics-") as directory:
        settings.export(METRICS_DIRECTORY, directory)
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def main(argv: Sequence[str]) -> int:
    try:
        options = parse_flags(argv, settings.inherited())
    except ServingError as error:
        print(f"frontend: {error}", file=sys.stderr)
        return 2
    serve(options)
    return 0
