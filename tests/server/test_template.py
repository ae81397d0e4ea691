"""A checkpoint that brings a chat template, on the real server: the prompt follows it, or the server does not start."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton_grpc

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.core.tokens import Vocabulary
from tests.server.running import ROOT, environment, free_ports, running
from tests.server.test_chat import inputs
from tests.server.test_lifecycle import is_live, plain_triton, until
from tests.support.template import NO_BREAK, TEMPLATE, change

MODEL = "kimi_k2_preprocess"
FOREIGN = ("'user': 'user'", "'user': 'human'")
SAID = "chat_template.jinja; differs from rule P5 with a system message: it writes "


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoint"
    shutil.copytree(ROOT / ".cache" / "checkpoints" / "demo", found)
    (found / "chat_template.jinja").write_text(TEMPLATE.strip())
    return found


def prompt_tokens(checkpoint: Path, form: Form) -> int:
    conversation = read_conversation(messages=[{"role": "user", "content": "Hello"}])
    vocabulary = Vocabulary.load(checkpoint)
    return len(vocabulary.encode_prompt(form.prompt(conversation).segments))


@contextmanager
def alone(folder: Path, settings: str) -> Iterator[Any]:
    """A Triton with the ensemble's first step alone, ready: seconds, where the engine would take half a minute."""
    repository = folder / "repository"
    for model in (MODEL, "kimi_k2_engine"):
        shutil.copytree(ROOT / "model_repository" / model, repository / model)
    (repository / "kimi_k2_engine" / "1" / "engine.yaml").write_text(settings)
    flags = ("--model-control-mode=explicit", f"--load-model={MODEL}")
    with plain_triton(repository, *flags, log=folder / "log") as (process, port):
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
        until(lambda: process.poll() is not None or (is_live(client) and client.is_model_ready(MODEL)), 120)
        assert process.poll() is None
        yield client
        client.close()


def test_the_prompt_has_the_form_of_the_checkpoints_template(checkpoint: Path) -> None:
    change(checkpoint, NO_BREAK)
    with running("--checkpoint", str(checkpoint)) as server:
        answer = httpx.post(server.generate(), json={"text_input": "Hello", "max_tokens": 2}, timeout=60).json()
    used = json.loads(answer["usage"])["prompt_tokens"]
    assert used == prompt_tokens(checkpoint, Form(line_break=False))
    assert used == prompt_tokens(checkpoint, Form()) - 1


def test_a_foreign_template_is_refused_with_the_probe_the_rule_and_both_renderings(checkpoint: Path) -> None:
    change(checkpoint, FOREIGN)
    http, grpc, metrics = free_ports(3)
    ports = ("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics), "--no-frontend")
    line = [str(ROOT / "scripts" / "serve"), "--checkpoint", str(checkpoint), *ports]
    result = subprocess.run(line, capture_output=True, text=True, env=environment(), check=False, timeout=240)
    assert result.returncode == 2
    *notices, said = result.stderr.splitlines()
    # Other tests' servers may run from this checkout.
    assert all(" notice: another server of this directory runs " in each for each in notices)
    assert said.startswith(f"serve: --checkpoint {checkpoint}; {SAID}")
    assert "<|im_human|>" in said
    assert said.endswith("take another template, or set strict_template: false in engine.yaml")


def test_with_the_line_break_the_prompt_is_0905s(checkpoint: Path, tmp_path: Path) -> None:
    with alone(tmp_path, f"checkpoint: {checkpoint}\n") as client:
        found: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: found.put((result, error)))
        client.async_stream_infer(MODEL, list(inputs({"text_input": "Hello"})))
        result, error = found.get(timeout=60)
        assert error is None, error
        assert len(result.as_numpy("input_ids")) == prompt_tokens(checkpoint, Form())


def test_an_operator_may_accept_a_foreign_template_and_is_told_of_the_difference(
    checkpoint: Path, tmp_path: Path
) -> None:
    change(checkpoint, FOREIGN)
    with alone(tmp_path, f"checkpoint: {checkpoint}\nstrict_template: false\n"):
        pass
    log = (tmp_path / "log").read_text()
    assert "differs from rule P5 with a system message" in log
    assert "accepted by strict_template: false" in log
