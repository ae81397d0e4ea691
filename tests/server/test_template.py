"""A checkpoint that brings a chat template, on the real server: the prompt follows it, or the server does not start."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton_grpc

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.core.tokens import Vocabulary
from tests.server.running import ROOT, environment, free_ports, running
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
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"serve: --checkpoint {checkpoint}; {SAID}")
    assert "<|im_human|>" in said
    assert said.endswith("take another template, or set strict_template: false in engine.yaml")


def test_an_operator_may_accept_a_foreign_template_and_is_told_of_the_difference(
    checkpoint: Path, tmp_path: Path
) -> None:
    change(checkpoint, FOREIGN)
    repository = tmp_path / "repository"
    for model in ("kimi_k2_preprocess", "kimi_k2_engine"):
        shutil.copytree(ROOT / "model_repository" / model, repository / model)
    settings = repository / "kimi_k2_engine" / "1" / "engine.yaml"
    settings.write_text(f"checkpoint: {checkpoint}\nstrict_template: false\n")
    log = tmp_path / "log"
    alone = ("--model-control-mode=explicit", "--load-model=kimi_k2_preprocess")
    with plain_triton(repository, *alone, log=log) as (process, port):
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
        until(lambda: process.poll() is not None or (is_live(client) and client.is_model_ready(MODEL)), 120)
        assert process.poll() is None
        client.close()
    assert "differs from rule P5 with a system message" in log.read_text()
    assert "accepted by strict_template: false" in log.read_text()
