"""The frontend's process: its command-line flags and its workers.

A worker that dies is started again. SIGTERM closes the port, gives requests in flight `--grace` seconds to finish, ends
the rest with one error each, and exits with 0. With wrong flags it exits with 2 after a line that says why.
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

from kimi_k2_serving import __version__, logs, settings
from kimi_k2_serving.chat.model import ChatModel, bounds
from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.limits import IDLE_SECONDS
from kimi_k2_serving.engine.abort_channel import TOKENS, socket_path
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2
from kimi_k2_serving.engine.config import CPU_PRESET, EngineConfig, engine_of_preset, load_engine_config
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.connections import Connection, raise_limit, watch_accepts
from kimi_k2_serving.frontend.hosts import Hosts, is_loopback
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.listening import Flags, bind, say_listening, url_of
from kimi_k2_serving.frontend.metrics import FrontendMetrics
from kimi_k2_serving.frontend.other_models import other_configs, other_models
from kimi_k2_serving.frontend.page import Page
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reader import Description
from kimi_k2_serving.frontend.readers import Readers
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.frontend.status import TritonMetrics
from kimi_k2_serving.frontend.token_reader import TokenReader
from kimi_k2_serving.frontend.tracing import Traced
from kimi_k2_serving.frontend.triton_engine import MODEL, TritonEngine
from kimi_k2_serving.frontend.worker import FrontendWorker

NAME = "kimi_k2"
# prometheus_client reads this variable when a worker imports it: the directory in which the counters add up.
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class FrontendOptions:
    """The checked flags. `engine`: the engine model's configuration, as far as it is known here. `others`: the
    configurations of the other engine models in the repository, by name. `names`: the served model ids, beginning with
    the model's own. `grace`: seconds.
    """

    host: str
    port: int
    grpc_url: str
    engine: EngineConfig
    others: Mapping[str, EngineConfig]
    names: tuple[str, ...]
    workers: int
    keys: Keys
    grace: int
    policy: Policy
    allowed_hosts: tuple[str, ...] = ()
    runtime_dir: Path | None = None
    # Triton's metrics page, HOST:PORT, or None; whether `/` shows the page.
    metrics: str | None = None
    page: bool = False

    @property
    def url(self) -> str:
        return url_of(self.host, self.port)

    @property
    def hosts(self) -> Hosts | None:
        """The accepted Host names. None if keys are set or other machines can connect: then nothing is checked."""
        if self.keys.keys or not is_loopback(self.host):
            return None
        return Hosts.of(socket.gethostname(), *self.allowed_hosts)


def _parser() -> argparse.ArgumentParser:
    parser = Flags(
        prog="python -m kimi_k2_serving.frontend",
        description="OpenAI's and Anthropic's APIs in front of a Triton server with the kimi_k2_engine model.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"kimi-k2-triton {__version__}")
    add("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    add("--port", type=int, default=9000, help="port to bind (%(default)s)")
    add("--grpc-url", metavar="HOST:PORT", default="127.0.0.1:8001", help="Triton's gRPC (%(default)s)")
    add("--checkpoint", metavar="DIR", type=Path, help="the model's checkpoint (default: $KIMI_K2_CHECKPOINT)")
    add("--preset", metavar="NAME", help=f"the engine's preset (default: $KIMI_K2_PRESET, else {CPU_PRESET})")
    add("--model-repository", metavar="DIR", type=Path, help="Triton's; give it if its engine.yaml changes the preset")
    add("--model-alias", metavar="ID", action="append", default=[], help=f"serve {NAME} under this id too; repeatable")
    add(
        "--runtime-dir",
        metavar="DIR",
        type=Path,
        help="Triton's, if it runs on this machine: tokens then reach the frontend directly"
        " (default: $KIMI_K2_RUNTIME_DIR)",
    )
    add("--triton-metrics", metavar="HOST:PORT", help="Triton's metrics port: then /engine has the engine's load")
    add("--page", action=argparse.BooleanOptionalAction, help="the page at / (default: if --host is loopback)")
    add("--workers", metavar="N", type=int, default=1, help="number of worker processes (%(default)s)")
    add("--api-key-file", metavar="FILE", type=Path, help="API keys, one per line; see docs/api.md")
    add(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="accept this name in the Host header, which is checked without keys on a loopback --host; repeatable",
    )
    add("--grace", metavar="S", type=int, default=5, help="seconds for requests in flight at shutdown (%(default)s)")
    add("--keep-alive", metavar="S", type=float, default=15.0, help="maximum seconds a stream is silent (%(default)s)")
    add("--in-flight", metavar="N", type=int, default=1024, help="maximum requests in flight per worker (%(default)s)")
    add(
        "--anthropic-temperature",
        metavar="FACTOR",
        type=float,
        default=0.6,
        help="factor on the temperatures of /v1/messages (%(default)s, like Moonshot's; 1 is off)",
    )
    return parser


def parse_flags(argv: Sequence[str], environ: Mapping[str, str]) -> FrontendOptions:
    """Check the flags. Wrong flags end the process with code 2 and one line; wrong files raise ServingError."""
    parser = _parser()
    given = parser.parse_args(argv)
    inherited = settings.Settings.read(environ)
    checkpoint = given.checkpoint or inherited.checkpoint
    if checkpoint is None:
        parser.error(f"give --checkpoint DIR, or set {settings.CHECKPOINT}")
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
        others=_others(given.model_repository, (NAME, *given.model_alias), environ),
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
        runtime_dir=given.runtime_dir or inherited.runtime_dir,
        metrics=given.triton_metrics,
        page=is_loopback(given.host) if given.page is None else given.page,
    )


def _engine(repository: Path | None, checkpoint: Path, preset: str, environ: Mapping[str, str]) -> EngineConfig:
    if repository is None:
        return engine_of_preset(checkpoint, preset, environ)
    variables = {**environ, settings.CHECKPOINT: str(checkpoint), settings.PRESET: preset}
    return load_engine_config(repository / "kimi_k2_engine" / "1" / "engine.yaml", variables)


def _others(repository: Path | None, names: Sequence[str], environ: Mapping[str, str]) -> dict[str, EngineConfig]:
    return {} if repository is None else other_configs(repository, environ, taken=(*names, MODEL))


def application(options: FrontendOptions) -> ASGIApp:
    """The application of one worker."""
    logs.begin("frontend", logging.INFO, text="%(asctime)s %(levelname)s %(name)s %(message)s")
    _end_with_parent()
    model = ChatModel.load(options.engine, names=options.names)
    engine = engine_of(options, MODEL)
    metrics = FrontendMetrics(shared=options.workers > 1)
    described = Description.of(model, options.engine.checkpoint, bounds(options.engine, model.form), options.policy)
    readers = Readers(msgspec.json.encode(described))
    others = [(each, engine_of(options, each.names[0])) for each in other_models(options.others)]
    service = Service(
        model,
        engine,
        options.keys,
        options.policy,
        metrics,
        readers=readers,
        hosts=options.hosts,
        triton=TritonMetrics(options.metrics, MODEL) if options.metrics else None,
        others=tuple(Service(each, client, options.keys, options.policy, metrics) for each, client in others),
    )

    async def opened() -> None:
        watch_accepts(asyncio.get_running_loop())
        for client in (engine, *(client for _, client in others)):
            await client.open()
        await readers.open()
        if options.workers > 1:
            say_listening(options.url, options.names[0], options.grpc_url)

    app = create_app(service, opened=opened, page=Page.load() if options.page else None)
    endpoint = settings.Settings.read().trace_endpoint
    return Traced(app, endpoint) if endpoint else app


def engine_of(options: FrontendOptions, model: str) -> TritonEngine:
    """The client of one engine model. Each has a token socket of its own."""
    tokens = TokenReader(socket_path(options.runtime_dir, model, TOKENS)) if options.runtime_dir else None
    return TritonEngine(options.grpc_url, model=model, tokens=tokens)


def _end_with_parent() -> None:
    """Drain and exit if the parent was killed, because nothing else would stop this worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        try:
            multiprocessing.connection.wait([parent.sentinel])
        except OSError:
            # Waiting takes a descriptor and memory. If there are none, poll.
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
    """Serve until a signal ends the process. Raises a ServingError if the checkpoint or the port can't be used."""
    raise_limit()
    # Otherwise each of several workers would fail because of the checkpoint, and be started again for ever.
    require_k2(inspect_checkpoint(options.engine.checkpoint))
    config = configuration(options)
    sockets = [bind(options.host, options.port)]
    if options.workers == 1:
        started = functools.partial(say_listening, options.url, options.names[0], options.grpc_url)
        FrontendWorker(config, started).run(sockets)
        return
    with tempfile.TemporaryDirectory(prefix="kimi-k2-metrics-") as directory:
        settings.export(METRICS_DIRECTORY, directory)
        Multiprocess(config, sockets=sockets).run()


def main(argv: Sequence[str]) -> int:
    try:
        serve(parse_flags(argv, settings.inherited()))
    except ServingError as error:
        logs.say("frontend", f"frontend: {error}", level="error")
        return 2
    return 0
