"""The frontend's process beside Triton, with a stand-in for the frontend."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from kimi_k2_serving.launch import cli
from kimi_k2_serving.launch.frontend import Frontend, frontend_arguments


def until_dead(frontend: Frontend) -> None:
    deadline = time.monotonic() + 10
    while frontend._process is not None and frontend._process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_its_command_line_says_where_triton_and_the_checkpoint_are() -> None:
    options = cli.parse_options(
        ["--frontend-port", "9100", "--grpc-port", "8100", "--workers", "2", "--preset", "demo-random"]
    )
    line = frontend_arguments(
        options, python=Path("/python"), checkpoint=Path("/checkpoint"), repository=Path("/models")
    )
    flags = dict(zip(line[3::2], line[4::2], strict=True))
    assert line[:3] == ["/python", "-m", "kimi_k2_serving.frontend"]
    assert flags == {
        "--host": "127.0.0.1",
        "--port": "9100",
        "--grpc-url": "127.0.0.1:8100",
        "--triton-metrics": "127.0.0.1:8002",
        "--checkpoint": "/checkpoint",
        "--model-repository": "/models",
        "--workers": "2",
        "--grace": "5",
        "--preset": "demo-random",
    }


@pytest.mark.parametrize(("argv", "word"), [([], None), (["--page"], "--page"), (["--no-page"], "--no-page")])
def test_the_page_is_the_frontends_own_choice_unless_a_flag_says(argv: list[str], word: str | None) -> None:
    line = frontend_arguments(cli.parse_options(argv), python=Path("/p"), checkpoint=Path("/c"), repository=Path("/m"))
    assert [each for each in line if each.endswith("-page") or each == "--page"] == ([word] if word else [])


def test_a_frontend_that_died_is_started_again_after_a_pause_and_not_before(tmp_path: Path) -> None:
    now = [0.0]
    log = tmp_path / "log"
    command = [sys.executable, "-c", "print('started', flush=True)"]
    frontend = Frontend(command, os.environ, log, clock=lambda: now[0])
    frontend.start()
    until_dead(frontend)
    assert not frontend.tend()
    now[0] = 1.0
    assert frontend.tend()
    until_dead(frontend)
    assert log.read_text() == "started\nstarted\n"


def test_no_other_user_reads_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch(mode=0o644)
    frontend = Frontend([sys.executable, "-c", ""], os.environ, log)
    frontend.start()
    until_dead(frontend)
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_frontend_that_runs_is_left_alone_until_it_is_asked_to_end(tmp_path: Path) -> None:
    frontend = Frontend([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, tmp_path / "log")
    frontend.start()
    assert not frontend.tend()
    frontend.end()
    until_dead(frontend)


def test_a_start_that_fails_is_tried_again_after_the_same_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    frontend = Frontend([sys.executable, "-c", ""], os.environ, tmp_path / "log", clock=lambda: now[0])
    frontend.start()
    until_dead(frontend)
    assert not frontend.tend()
    now[0] = 1.0
    with monkeypatch.context() as patch:
        patch.setattr(frontend, "_command", [str(tmp_path / "missing")])
        with pytest.raises(OSError, match="missing"):
            frontend.tend()
    assert not frontend.tend()
    now[0] = 2.0
    assert frontend.tend()
    until_dead(frontend)
