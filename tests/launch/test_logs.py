"""With KIMI_K2_LOG_FORMAT=json every process writes one JSON object a line; lines of other programs are wrapped."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving import logs
from kimi_k2_serving.engine.stages import StartStage, enter, latest
from kimi_k2_serving.frontend.listening import say_listening
from kimi_k2_serving.launch.outputs import start_logged
from kimi_k2_serving.launch.progress import Progress, symptoms
from kimi_k2_serving.launch.ready import phase
from kimi_k2_serving.settings import LOG_FORMAT

KEYS = {"time", "level", "process", "pid", "message"}


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(LOG_FORMAT, "json")
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, logs.OWN)]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    root.handlers = []
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def parsed(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert set(line) >= KEYS
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
    return lines


@pytest.mark.parametrize(
    ("process", "name"),
    [
        ("sglang::host", "sglang::host"),
        ("frontend", "kimi_k2_serving.frontend.exchange"),
        ("worker", "kimi_k2_serving.engine.nodes.worker"),
        ("kimi_k2_engine", "kimi_k2_serving.engine.supervisor"),
        ("kimi_k2_preprocess", "kimi_k2_serving.enforcer.worker_client"),
        ("reader", "kimi_k2_serving.reading.desk"),
    ],
)
def test_each_process_names_itself_and_the_request(as_json: None, process: str, name: str) -> None:
    stream = io.StringIO()
    logs.begin(process, text="%(message)s", to=stream)
    logging.getLogger(name).error("two\nlines \u2028 %s", 1, extra={"request": "r-1"})
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger(name).exception("failed")
    first, second = parsed(stream.getvalue())
    assert (first["process"], first["level"], first["request"]) == (process, "error", "r-1")
    assert first["message"] == "two\nlines \u2028 1"
    assert "request" not in second
    assert "ValueError: why" in second["exception"]


def test_what_sglang_does_to_the_root_logger_does_not_reach_our_lines(as_json: None) -> None:
    stream = io.StringIO()
    logs.begin("sglang::host", to=stream)
    logging.basicConfig(format="[%(asctime)s] %(message)s", force=True)
    logging.getLogger("sglang::host").warning("ours")
    assert [line["message"] for line in parsed(stream.getvalue())] == ["ours"]


def test_the_keys_of_a_frontend_s_line_are_keys_of_the_object(as_json: None) -> None:
    stream = io.StringIO()
    logs.begin("frontend", logging.INFO, to=stream)
    fields = {"request": "r-1", "status": 200, "seconds": 0.1}
    extra = {"fields": fields, "summary": "POST /x 200"}
    logging.getLogger("kimi_k2_serving.frontend.access").info("%s", json.dumps(fields), extra=extra)
    (line,) = parsed(stream.getvalue())
    assert (line["message"], line["request"], line["status"]) == ("POST /x 200", "r-1", 200)


def test_lines_without_a_logger_have_the_same_keys(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    say_listening("http://x", "kimi_k2", "y")
    Progress(sys.stderr).line("starting")
    enter(StartStage.WEIGHTS)
    assert [line["process"] for line in parsed(capsys.readouterr().err)] == ["frontend", "serve", "sglang::host"]


def test_without_the_switch_lines_are_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    enter(StartStage.WEIGHTS)
    assert capsys.readouterr().err == f"sglang::host: {StartStage.WEIGHTS.value}\n"


def test_lines_of_other_programs_are_wrapped_and_ours_left(tmp_path: Path) -> None:
    ours = logs.encode_line("frontend", "warning", "text")
    program = "import sys; sys.stdout.buffer.write(sys.argv[1].encode('latin-1'))"
    written = f'E1126 22:59:42.1 1 x.cc:1] bad\n\n{ours}\n{{"time": broken\n\xff{"x" * 100_000}'
    log = tmp_path / "log"
    process, copier = start_logged(
        [sys.executable, "-c", program, written], {LOG_FORMAT: "json"}, log, name="tritonserver", in_child=lambda: None
    )
    process.wait(30)
    assert copier is not None
    copier.join(30)
    lines = parsed(log.read_text())
    assert [line["process"] for line in lines] == ["tritonserver", "frontend", *["tritonserver"] * 3]
    assert [line["level"] for line in lines[:3]] == ["error", "warning", "info"]
    assert lines[0]["pid"] == process.pid
    assert log.stat().st_mode & 0o777 == 0o600


def test_without_the_switch_a_process_writes_to_its_log_itself(tmp_path: Path) -> None:
    process, copier = start_logged(["echo", "text"], {}, tmp_path / "log", name="x", in_child=lambda: None)
    assert (process.wait(30), copier) == (0, None)
    assert (tmp_path / "log").read_text() == "text\n"


def test_a_command_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_logged(["/nowhere"], {LOG_FORMAT: "json"}, tmp_path / "log", name="x", in_child=lambda: None)


def test_who_waits_for_a_start_reads_both_formats(tmp_path: Path) -> None:
    texts = ["I1126 x] loading: kimi_k2_engine:1", f"sglang::host: {StartStage.WEIGHTS.value}"]
    found = []
    for name, lines in (("text", texts), ("json", [logs.wrap(each, "tritonserver", 1) for each in texts])):
        log = tmp_path / name
        log.write_text("\n".join(lines) + "\n")
        found.append((phase(log), symptoms(log), latest(map(logs.text_of, lines))))
    assert found[0] == found[1]
    assert StartStage.WEIGHTS.value in found[0][0]


def test_a_stub_writes_its_own_lines_or_triton_s() -> None:
    """In a process of its own, as Triton starts it."""
    program = (
        "import sys; sys.path[:0] = ['tests/triton', 'backend']; import fake_pb_utils\n"
        "sys.modules['triton_python_backend_utils'] = fake_pb_utils\n"
        "fake_pb_utils.Logger.log_error = staticmethod(lambda text: print('triton:', text, file=sys.stderr))\n"
        "from kimi_k2_serving.triton import journal\n"
        "journal.begin('kimi_k2_engine'); journal.error('failed', request='u')\n"
    )
    root = Path(__file__).parents[2]

    def written(environment: dict[str, str]) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True).stderr

    assert written({}) == "triton: failed\n"
    (line,) = parsed(written({LOG_FORMAT: "json"}))
    assert (line["process"], line["message"], line["request"]) == ("kimi_k2_engine", "failed", "u")


@pytest.mark.parametrize("value", ["xml", "JSON", "json ", "1"])
def test_an_unknown_format_is_refused_in_one_line(value: str) -> None:
    environ = {**os.environ, LOG_FORMAT: value}
    for words in (["kimi_k2_serving.launch", "--print-command"], ["kimi_k2_serving.frontend"]):
        ended = subprocess.run([sys.executable, "-m", *words], env=environ, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert LOG_FORMAT in ended.stderr
        assert f"must be text or json, got {value!r}" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.usefixtures("as_json")
def test_what_ends_the_launcher_is_an_error_and_its_progress_is_not() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.line("loading")
    progress.plain("serve: no; because; do this", level="error")
    assert [(line["level"], line["message"][-7:]) for line in parsed(stream.getvalue())] == [
        ("info", "loading"),
        ("error", "do this"),
    ]
