"""`python -m tests.frontend.serve_scripted --port N`: the frontend over the scripted engine, for clients in other
environments. The commands it obeys are in scripted.py."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import uvicorn

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.service import Policy, Service
from tests.frontend.scripted import ScriptedEngine
from tests.support.enforcer import chat_model
from tests.support.vocabulary import write_small_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--grace", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each token")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        vocabulary = Vocabulary.load(write_small_checkpoint(Path(directory)))
    model = chat_model(vocabulary, context=262_144)
    keys = Keys.load(given.api_key_file) if given.api_key_file else Keys()
    engine = ScriptedEngine(vocabulary, pause=given.pause)
    app = create_app(Service(model, engine, keys, Policy(keep_alive=1.0)))
    config = uvicorn.Config(
        app,
        port=given.port,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=given.grace,
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
