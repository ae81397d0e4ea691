"""A toy Llama that the `sglang` backend serves from a model directory of its own, as docs/architecture.md says."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kimi_k2_client import Client
from kimi_k2_serving.demo import random_weights
from kimi_k2_serving.demo.random_weights import WeightTensor
from kimi_k2_serving.demo.vocabulary import SIZE
from kimi_k2_serving.launch import backends, cli, serve
from kimi_k2_serving.launch.layout import checkout
from tests.server.running import environment, free_ports, wait_for
from tests.support.demo import demo

__all__ = ["demo"]

MODEL = "toy_llama"
HIDDEN, HEADS, KEY_HEADS, HEAD, INNER, LAYERS = 64, 4, 2, 16, 128, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD,
    "intermediate_size": INNER,
    "hidden_act": "silu",
    "vocab_size": SIZE,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 4096,
    "eos_token_id": 4097,
}
PRIVATE = {"max_total_tokens": 8192, "context_length": 4096}


def tensors() -> Iterator[WeightTensor]:
    def matrix(name: str, rows: int, columns: int) -> WeightTensor:
        return WeightTensor(f"{name}.weight", (rows, columns), columns**-0.5)

    def norm(name: str) -> WeightTensor:
        return WeightTensor(f"{name}.weight", (HIDDEN,), 0.05, mean=1.0)

    yield WeightTensor("model.embed_tokens.weight", (SIZE, HIDDEN), 1.0)
    for layer in (f"model.layers.{number}" for number in range(LAYERS)):
        yield norm(f"{layer}.input_layernorm")
        yield matrix(f"{layer}.self_attn.q_proj", HEADS * HEAD, HIDDEN)
        yield matrix(f"{layer}.self_attn.k_proj", KEY_HEADS * HEAD, HIDDEN)
        yield matrix(f"{layer}.self_attn.v_proj", KEY_HEADS * HEAD, HIDDEN)
        yield matrix(f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD)
        yield norm(f"{layer}.post_attention_layernorm")
        yield matrix(f"{layer}.mlp.gate_proj", INNER, HIDDEN)
        yield matrix(f"{layer}.mlp.up_proj", INNER, HIDDEN)
        yield matrix(f"{layer}.mlp.down_proj", HIDDEN, INNER)
    yield norm("model.norm")
    yield matrix("lm_head", SIZE, HIDDEN)


def write_checkpoint(directory: Path, demo: Path) -> Path:
    """A Llama with the demo's tokenizer, which any tokenizer.json may be."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo / name, directory / name)
    random_weights.write_weights(directory / "model.safetensors", tensors())
    return directory


def write_repository(directory: Path, checkpoint: Path) -> Path:
    """The two files that the documentation asks for."""
    (directory / MODEL / "1").mkdir(parents=True)
    (directory / MODEL / "config.pbtxt").write_text(f'name: "{MODEL}"\nbackend: "sglang"\n')
    engine = {"checkpoint": str(checkpoint), "preset": "demo", "engine": PRIVATE}
    (directory / MODEL / "1" / "engine.yaml").write_text(json.dumps(engine))
    return directory


@contextmanager
def triton(repository: Path, checkpoint: Path, work: Path) -> Iterator[str]:
    """A plain Triton with this repository; yields its HTTP address."""
    http, grpc, metrics = free_ports(3)
    flags = ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics), "--no-frontend"]
    layout = checkout()
    backends.assemble(layout.backends, backends.wheel(), layout.backend_source)
    model = serve.ServedCheckpoint(checkpoint, None, repository)
    command = serve.build_command(cli.parse_options(flags), layout, model, runtime_dir=work / "runtime")
    argv = [word for word in command.argv if word != "--disable-auto-complete-config"]
    log = work / "triton.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            argv, env=command.merged(environment()), stdout=written, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{http}/v2/models/{MODEL}/ready", 180, process, log)
        yield f"http://127.0.0.1:{http}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def url(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    work = tmp_path_factory.mktemp("llama")
    checkpoint = write_checkpoint(work / "checkpoint", demo)
    (work / "runtime").mkdir(mode=0o700)
    with triton(write_repository(work / "models", checkpoint), checkpoint, work) as address:
        yield address


def ask(url: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v2/models/{MODEL}/generate", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_llama_answers_text_with_text(url: str) -> None:
    answers = [ask(url, text_input="Once upon a time", max_tokens=12, temperature=0.0) for _ in range(2)]
    assert answers[0]["text_output"] == answers[1]["text_output"] != ""
    assert (answers[0]["num_output_tokens"], answers[0]["finish_reason"]) == (12, "length")


def test_its_grammar_and_its_stop_strings_are_heeded(url: str) -> None:
    made = ask(url, text_input="x", max_tokens=30, sampling_parameters=json.dumps({"regex": "[abc]{5}"}))
    assert len(made["text_output"]) == 5
    assert set(made["text_output"]) <= set("abc")


def test_the_client_reaches_it_by_its_name(url: str) -> None:
    with Client(url, engine_model=MODEL) as client:
        made = client.generate("Once upon a time", max_tokens=12, temperature=0.0).text
    assert made == ask(url, text_input="Once upon a time", max_tokens=12, temperature=0.0)["text_output"]
