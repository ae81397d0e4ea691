"""The frontend as a process: flags, a real port, workers that die, the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from kimi_k2_serving.core.errors import NotFound, ServingError
from kimi_k2_serving.core.limits import IDLE_SECONDS
from kimi_k2_serving.frontend.server import configuration, main, parse_flags
from tests.frontend.asking import chat
from tests.support.attempts import quickest

SCRIPTED = "tests.frontend.serve_scripted"
KEY = "sk-0123456789abcdef"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until_live(frontend: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health/live").status_code == 200:
                return
        assert frontend.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def process(
    *flags: str, module: str = SCRIPTED, temporary: str = "/tmp"
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A frontend that answers, and its address; it is gone afterwards."""
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port), *flags]
    # Nobody reads standard error: the log must not fill a pipe.
    environment = {**os.environ, "TMPDIR": temporary}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as running:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_live(running, url)
            yield running, url
        finally:
            running.kill()


def workers(parent: psutil.Process) -> set[int]:
    found = set()
    for child in parent.children():
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_flags_and_environment_are_read(small_checkpoint: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    options = parse_flags(
        ["--port", "1", "--model-alias", "a", "--workers", "2", "--api-key-file", str(keys), "--grace", "7"],
        {"KIMI_K2_CHECKPOINT": str(small_checkpoint)},
    )
    assert options.engine.checkpoint == small_checkpoint
    assert options.names == ("kimi_k2", "a")
    assert (options.workers, options.policy.workers, options.grace) == (2, 2, 7)
    assert len(options.keys.keys) == 1
    assert options.engine.preset.name == "demo"
    assert configuration(options).timeout_keep_alive == IDLE_SECONDS.value


@pytest.mark.parametrize(
    "argv",
    [
        ["--workers", "0", "--checkpoint", "x"],
        ["--keep-alive", "-1", "--checkpoint", "x"],
        ["--anthropic-temperature", "0", "--checkpoint", "x"],
        [],
        ["--surprise"],
    ],
)
def test_wrong_flags_end_with_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(argv, {})
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("frontend: ")


def test_wrong_files_end_with_code_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--checkpoint", str(tmp_path), "--api-key-file", str(tmp_path / "nothing")]
    with pytest.raises(NotFound):
        parse_flags(argv, {})
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ServingError):
        parse_flags(["--checkpoint", str(tmp_path), "--preset", "nobody"], {})


@pytest.mark.slow
def test_sigterm_lets_a_stream_finish_and_exits_cleanly() -> None:
    with process("--grace", "20", "--pause", "0.005") as (running, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=chat("say " + "x" * 200, stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.send_signal(signal.SIGTERM)
            rest = list(lines)
            time.sleep(0.2)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/health/live")
        assert "data: [DONE]" in rest
        assert running.wait(10) in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_when_the_grace_is_over_a_stream_ends_with_one_error() -> None:
    with process("--grace", "1", "--pause", "0.05") as (running, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=chat("say " + "x" * 2000, stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        running.wait(10)


def test_a_socket_that_closes_ends_the_generation_before_its_first_token() -> None:
    with process() as (_, url):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(chat("wait 60 say ab", stream=True)).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )

        def in_flight() -> float:
            lines = httpx.get(f"{url}/metrics").text.splitlines()
            return next(float(line.split()[1]) for line in lines if line.startswith("kimi_k2_frontend_requests_in_fli"))

        def come_and_go() -> None:
            with socket.create_connection((host, int(port))) as sock:
                sock.sendall(head.encode() + body)
                while in_flight() != 1:
                    time.sleep(0.01)

        def noticed() -> None:
            while in_flight() != 0:
                time.sleep(0.005)

        assert quickest(noticed, 0.25, before=come_and_go) < 0.25


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_none_outlives_its_parent(demo: Path, tmp_path: Path) -> None:
    flags = ("--checkpoint", str(demo), "--workers", "2", "--grpc-url", f"127.0.0.1:{free_port()}")
    with process(*flags, module="kimi_k2_serving.frontend", temporary=str(tmp_path)) as (running, url):
        parent = psutil.Process(running.pid)
        until(lambda: len(workers(parent)) == 2)
        first = workers(parent).pop()
        os.kill(first, signal.SIGKILL)
        until(lambda: len(workers(parent) - {first}) == 2)
        assert httpx.get(f"{url}/health/ready").status_code == 503
        children = parent.children()
        running.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def refused(capfd: pytest.CaptureFixture[str], *argv: str) -> str:
    try:
        code: object = main(argv)
    except SystemExit as end:
        code = end.code
    out, line = capfd.readouterr()
    assert (code, out, line.count("\n")) == (2, "", 1)
    return line


def test_every_refusal_to_start_is_one_line(capfd: pytest.CaptureFixture[str], demo: Path, tmp_path: Path) -> None:
    checkpoint = ("--checkpoint", str(demo))
    assert refused(capfd, "--nonsense").startswith("frontend: unrecognized arguments: --nonsense; see ")
    assert "give --checkpoint DIR" in refused(capfd)
    for workers in ("1", "2"):
        for folder, says in ((tmp_path / "missing", "no such directory"), (tmp_path, "has no config.json")):
            flags = ("--checkpoint", str(folder), "--port", str(free_port()), "--workers", workers)
            assert says in refused(capfd, *flags)
    assert "not a port; choose another with --port" in refused(capfd, *checkpoint, "--port", "70000")
    for workers in ("1", "2"):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            line = refused(capfd, *checkpoint, "--port", str(taken.getsockname()[1]), "--workers", workers)
        assert "Address already in use; choose another with --port" in line


@pytest.mark.parametrize("workers", [1, 2])
def test_it_says_when_it_listens_and_then_answers(demo: Path, workers: int) -> None:
    port = free_port()
    flags = ("--checkpoint", str(demo), "--port", str(port), "--workers", str(workers))
    command = [sys.executable, "-m", "kimi_k2_serving.frontend", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            line = next(line for line in running.stderr if line.startswith("frontend: "))
            assert line.startswith(f"frontend: listening at http://127.0.0.1:{port} (model kimi_k2")
            if workers == 1:
                assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        finally:
            running.terminate()
            running.wait(30)
