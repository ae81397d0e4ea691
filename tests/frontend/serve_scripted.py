"""`python -m tests.frontend.serve_scripted --port N`: the frontend over the scripted engine, for clients in other
environments. The commands it obeys are in scripted.py."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import msgspec
import uvicorn

from kimi_k2_serving.core.limits import IDLE_SECONDS
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.connections import Connection, raise_limit, watch_accepts
from kimi_k2_serving.frontend.hosts import Hosts
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.page import Page
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.reader import Description
from kimi_k2_serving.frontend.readers import Readers
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.frontend.worker import FrontendWorker
from kimi_k2_serving.json_schema.bounds import Bounds
from tests.frontend.scripted import ScriptedEngine
from tests.support.enforcer import chat_model
from tests.support.vocabulary import write_small_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--grace", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each token")
    parser.add_argument("--allowed-host", action="append", default=[])
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    raise_limit()
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = write_small_checkpoint(Path(directory))
        FrontendWorker(configuration(given, checkpoint)).run()
    return 0


def configuration(given: argparse.Namespace, checkpoint: Path) -> uvicorn.Config:
    vocabulary = Vocabulary.load(checkpoint)
    model = chat_model(vocabulary, context=262_144)
    keys = Keys.load(given.api_key_file) if given.api_key_file else Keys()
    engine = ScriptedEngine(vocabulary, pause=given.pause)
    policy = Policy(keep_alive=1.0)
    readers = Readers(msgspec.json.encode(Description.of(model, checkpoint, Bounds.demo(), policy)))
    hosts = None if keys.keys else Hosts.of(*given.allowed_host)

    async def opened() -> None:
        watch_accepts(asyncio.get_running_loop())
        await readers.open()

    return uvicorn.Config(
        create_app(Service(model, engine, keys, policy, readers=readers, hosts=hosts), opened=opened, page=Page.load()),
        port=given.port,
        http=Connection,
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=IDLE_SECONDS.value,
        timeout_graceful_shutdown=given.grace,
    )


if __name__ == "__main__":
    sys.exit(main())
