"""The phases that a waiting user sees, and the READY block at the end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from kimi_k2_serving.engine.stages import StartStage, enter
from kimi_k2_serving.launch import cli, ready
from kimi_k2_serving.launch.ready import Ready
from kimi_k2_serving.launch.triton_process import make_runtime_dir, why_triton_ended
from kimi_k2_serving.settings import Settings, runtime_base
from tests.support.http_server import respond, serving


def block(*argv: str, context: int | None = 32_768) -> Ready:
    return Ready(cli.parse_options(argv), Path("/c"), context, "SGLang", Path("/log"), 12.34)


@pytest.mark.parametrize(("host", "reached"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_curl_is_pasteable_and_asks_for_a_stream(host: str, reached: str) -> None:
    words = shlex.split(block("--host", host, "--insecure", "--http-port", "8100").curl())
    assert words[0] == "curl"
    assert f"http://{reached}:8100/v2/models/kimi_k2/generate_stream" in words
    assert json.loads(words[-1]) == {"text_input": "Hello", "max_tokens": 32, "stream": True}


def test_the_block_names_model_context_engine_and_ports() -> None:
    text = block("--http-port", "8100").text()
    for said in ("READY in 12.3 s", "kimi_k2", "32,768 tokens", "SGLang", "8100", "8001", "8002", "curl "):
        assert said in text
    assert "not stated by the checkpoint" in block(context=None).text()


def test_the_block_names_the_page_where_there_is_one() -> None:
    page = "http://127.0.0.1:9000/\n"
    assert page in block().text()
    for argv in (["--no-page"], ["--no-frontend"], ["--host", "0.0.0.0", "--insecure"]):
        assert page not in block(*argv).text()
    assert page in block("--host", "0.0.0.0", "--insecure", "--page").text()


def test_the_first_page_shows_lines_of_the_real_block() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    shown = readme.partition("```text\nREADY in ")[2].partition("```")[0].splitlines()[1:]
    real = block().text().splitlines()
    assert len(shown) >= 5
    for line in shown:
        label = line[:12]
        assert any(each.startswith(label) for each in real), line
        if label.strip() in ("page", "openai", "ports"):
            assert line in real


def test_the_document_is_one_line_of_json() -> None:
    line = json.dumps(block().document())
    assert "\n" not in line
    assert json.loads(line)["context_length"] == 32_768


def test_the_phase_is_what_has_begun_and_not_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert ready.phase(log) == "starting Triton"
    log.write_text('I1 "loading: kimi_k2_engine:1"\nI1 "loading: kimi_k2_preprocess:1"\n')
    assert ready.phase(log) == "loading kimi_k2_engine, kimi_k2_preprocess"
    with log.open("a") as more:
        more.write("I1 \"successfully loaded 'kimi_k2_preprocess'\"\n")
    assert ready.phase(log) == "loading kimi_k2_engine"
    with log.open("a") as more:
        more.write("I1 \"successfully loaded 'kimi_k2_engine'\"\n")
    assert ready.phase(log) == "Triton is opening its ports"


def test_the_engine_s_stages_are_named_with_their_usual_time_for_the_demo(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('I1 "loading: kimi_k2_engine:1"\n')
    for place, stage in enumerate(StartStage, 1):
        with log.open("a") as lines:
            enter(stage, log=lines)
            lines.write("some library's warning\n")
        said = f"kimi_k2_engine, stage {place} of 3: {stage.value}"
        assert ready.phase(log) == said
        assert ready.phase(log, demo=True).startswith(f"{said} (usually ")


@contextmanager
def answering(*good: str) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self, 200 if self.path in good else 400, b"")

    with serving(Handler) as port:
        yield port


def test_ready_means_the_server_and_the_model() -> None:
    health, model = "/v2/health/ready", "/v2/models/kimi_k2/ready"
    for good, expected in (((health, model), True), ((health,), False), ((model,), False)):
        with answering(*good) as port:
            assert ready.is_ready("127.0.0.1", port, "kimi_k2") is expected
    assert not ready.is_ready("127.0.0.1", port, "kimi_k2")


def test_the_end_of_triton_is_explained_by_its_signal_or_exit_code() -> None:
    assert "ended by SIGKILL" in str(why_triton_ended(-9))
    assert "exit code 1" in str(why_triton_ended(1))


def test_a_runtime_directory_is_private_and_short_enough_for_a_socket(tmp_path: Path) -> None:
    short = make_runtime_dir(Path("/tmp"))
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    other = make_runtime_dir(deep)
    try:
        assert short.stat().st_mode & 0o777 == 0o700
        assert other.parent == Path("/tmp")
        assert list(deep.iterdir()) == []
    finally:
        short.rmdir()
        other.rmdir()


def test_settings_treat_an_empty_value_as_unset() -> None:
    read = Settings.read({"KIMI_K2_CHECKPOINT": "", "KIMI_K2_PRESET": "", "HOME": "/home/x"})
    assert read == Settings(None, None, None, Path("/home/x/.cache/kimi-k2"))
    assert Settings.read({"XDG_CACHE_HOME": "/c"}).cache == Path("/c/kimi-k2")


def test_sockets_go_where_the_user_has_a_runtime_directory(tmp_path: Path) -> None:
    assert runtime_base({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path
    assert runtime_base({"XDG_RUNTIME_DIR": "/no/such"}) == runtime_base({}) == Path("/tmp")
