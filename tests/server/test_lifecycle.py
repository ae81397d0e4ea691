"""Starting, stopping and breaking a server: what is left behind, and what still serves."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import tritonclient.grpc as triton_grpc

from tests.server.running import ROOT, Server, environment, free_ports, listening, running, shared_memory

CHAT = {"text_input": "Hello", "max_tokens": 8}


def until(condition: Callable[[], bool], seconds: float) -> float:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, "did not happen in time"
        time.sleep(0.1)
    return time.monotonic() - begin


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_a_stop_when_idle_is_quick_and_leaves_no_process_port_or_shared_memory() -> None:
    with running() as server:
        assert httpx.post(server.generate(), json=CHAT, timeout=60).status_code == 200
        leave_a_stream(server)
        processes = server.processes()
        entries = shared_memory(processes)
        assert {"sglang::host", "sglang::scheduler"} <= {each.name() for each in processes}
        assert any("triton_" in entry.name for entry in entries)
        # A request that Triton still counts as in flight would take its whole exit timeout of 8 s.
        assert server.stop() < 7
        assert server.process.returncode == 0
    assert gone(processes)
    assert not any(map(listening, (server.http, server.grpc, server.metrics)))
    assert [entry for entry in entries if entry.exists()] == []


def leave_a_stream(server: Server) -> None:
    """A client that goes away in the middle of an answer through the ensemble."""
    body = {**CHAT, "max_tokens": 500, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", server.generate(stream=True), json=body, timeout=60) as answer:
        next(answer.iter_lines())
    time.sleep(2)


def test_the_engine_comes_back_after_a_kill_and_a_later_stop_is_still_clean() -> None:
    with running() as server:
        entries = shared_memory(server.processes())
        server.named("sglang::scheduler").kill()
        until(lambda: httpx.post(server.generate(), json=CHAT, timeout=60).status_code != 200, 10)
        refusal = httpx.post(server.generate(), json=CHAT, timeout=60)
        assert "engine_" in refusal.json()["error"]
        until(lambda: httpx.post(server.generate(), json=CHAT, timeout=60).status_code == 200, 120)
        processes = server.processes()
        entries |= shared_memory(processes)
        server.stop()
    assert gone(processes)
    assert [entry for entry in entries if entry.exists()] == []


def test_serve_fails_when_triton_dies_and_leaves_nothing() -> None:
    with running() as server:
        processes = server.processes()
        entries = shared_memory(processes)
        server.named("tritonserver").send_signal(signal.SIGKILL)
        assert server.process.wait(30) == 1
    until(lambda: gone(processes), 10)
    assert [entry for entry in entries if entry.exists()] == []


def test_a_port_in_use_is_refused_in_one_line_with_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = [str(ROOT / "scripts" / "serve"), "--http-port", str(port)]
        result = subprocess.run(line, capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 2
    (said,) = [each for each in result.stderr.splitlines() if each]
    assert str(port) in said


def printed_command() -> tuple[dict[str, str], list[str]]:
    """The environment and the arguments that `--print-command` gives, as a user would paste them."""
    line = [str(ROOT / "scripts" / "serve"), "--print-command"]
    text = subprocess.run(line, capture_output=True, text=True, env=environment(), check=True).stdout
    words = shlex.split(text)
    first = next(number for number, word in enumerate(words) if word.endswith("/tritonserver"))
    variables = dict(word.split("=", 1) for word in words[1:first] if "=" in word)
    return variables, words[first:]


@contextmanager
def plain_triton(repository: Path, *flags: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`tritonserver` itself, no launcher: the user's own way."""
    variables, words = printed_command()
    http, grpc, metrics = free_ports(3)
    command = [
        words[0],
        f"--model-repository={repository}",
        next(word for word in words if word.startswith("--backend-directory=")),
        *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--exit-timeout-secs=10"),
        *flags,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**environment(), **variables}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process, grpc
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tree(path: Path) -> dict[str, str]:
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in path.rglob("*")
        if each.is_file()
    }


def test_plain_tritonserver_loads_unloads_and_loads_the_unmodified_repository_and_leaks_nothing(tmp_path: Path) -> None:
    repository = ROOT / "model_repository"
    content = tree(repository)
    log = tmp_path / "log"
    with plain_triton(repository, "--model-control-mode=explicit", log=log) as (process, port):
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
        until(lambda: process.poll() is not None or is_live(client), 60)
        names, entries, files = [], [], []
        for _ in range(2):
            client.load_model("kimi_k2", client_timeout=240)
            until(lambda: client.is_model_ready("kimi_k2"), 60)
            loaded = psutil.Process(process.pid).children(recursive=True)
            names.append(sorted(each.name() for each in loaded))
            entries.append(shared_memory(loaded))
            for model in ("kimi_k2", "kimi_k2_preprocess", "kimi_k2_engine", "kimi_k2_postprocess"):
                client.unload_model(model)
            until(lambda: not psutil.Process(process.pid).children(recursive=True), 60)
            assert [entry for entry in entries[-1] if entry.exists()] == []
            files.append(psutil.Process(process.pid).num_fds())
        assert names[0] == names[1]
        assert len(entries[0]) == len(entries[1])
        assert files[0] == files[1]
        client.close()
    assert tree(repository) == content


def is_live(client: Any) -> bool:
    try:
        return bool(client.is_server_live())
    except Exception:
        return False


def test_a_second_engine_instance_is_refused_at_load(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "model_repository" / "kimi_k2_engine", repository / "kimi_k2_engine")
    config = repository / "kimi_k2_engine" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    log = tmp_path / "log"
    with plain_triton(repository, log=log) as (process, _):
        until(lambda: process.poll() is not None, 60)
    assert "instance_group.count: must be 1, got 2" in log.read_text()
