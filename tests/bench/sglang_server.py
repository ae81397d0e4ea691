"""SGLang's own OpenAI server with the engine's arguments, to measure beside: `python -m tests.bench.sglang_server`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kimi_k2_serving.core.render import DEFAULT_SYSTEM
from kimi_k2_serving.engine.build import server_args
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint
from kimi_k2_serving.engine.config import engine_of_preset
from tests.server.running import ROOT, environment, free_ports, wait_for

START_SECONDS = 300.0
# What the K2 template makes of one message of the user's. SGLang's server needs one, and the demo checkpoint has none.
TEMPLATE = (
    f"<|im_system|>system<|im_middle|>{DEFAULT_SYSTEM}<|im_end|>{{{{ '\\n' }}}}"
    "{% for m in messages %}<|im_user|>{{ m['role'] }}<|im_middle|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "<|im_assistant|>assistant<|im_middle|>"
)


@contextmanager
def running(checkpoint: Path) -> Iterator[str]:
    """Its URL. The same checkpoint, arguments and environment as the engine of the demo preset."""
    config = engine_of_preset(checkpoint, "demo", {})
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as directory:
        template = Path(directory) / "template.jinja"
        template.write_text(TEMPLATE)
        arguments = {
            **server_args(config, inspect_checkpoint(checkpoint), ROOT / ".cache"),
            "chat_template": str(template),
            "served_model_name": "kimi_k2",
            "port": port,
        }
        own = {"HF_HUB_OFFLINE": "1", "SGLANG_EXTERNAL_MODEL_PACKAGE": "kimi_k2_serving.engine.models"}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.sglang_server", json.dumps(arguments)],
            cwd=ROOT,
            env={**environment(), **own, **config.preset.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(f"{url}/health", START_SECONDS, process)
            yield url
        finally:
            os.killpg(process.pid, 9)
            process.wait()


if __name__ == "__main__":
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.server_args import ServerArgs

    launch_server(ServerArgs(**json.loads(sys.argv[1])))
