"""Starting, stopping and breaking a server: what is left behind, and what still serves."""

from __future__ import annotations

import asyncio
import hashlib
import queue
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
import pytest
import tritonclient.grpc as triton_grpc

from kimi_k2_serving import settings
from tests.frontend.running import another
from tests.server.running import ROOT, Server, end, environment, free_ports, listening, running, shared_memory
from tests.server.test_chat import inputs

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
        with another(server) as (frontend, _):
            asyncio.run(ask_often(frontend, 300))
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


async def ask_often(url: str, number: int) -> None:
    """Short answers, 16 at a time: whole, as streams, and as streams that the client leaves. If the frontend cancels
    its calls when they end, Triton keeps some of these requests for ever: 4 in 100 were seen.
    """
    free = asyncio.Semaphore(16)

    async def ask(client: httpx.AsyncClient, each: int) -> None:
        body = {"model": "kimi_k2", "messages": [{"role": "user", "content": f"Hi {each}"}], "stream": each % 2 == 0}
        body |= {"max_tokens": 100} if each % 10 == 0 else {"max_tokens": 1 + each % 12}
        async with free, client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if each % 10 == 0 and line:
                    break

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(ask(client, each) for each in range(number)))


def test_the_engine_comes_back_after_a_kill_and_a_later_stop_is_still_clean() -> None:
    with running() as server:
        entries = shared_memory(server.processes())
        server.named("sglang::scheduler").kill()
        until(lambda: httpx.post(server.generate(), json=CHAT, timeout=60).status_code != 200, 10)
        refusal = httpx.post(server.generate(), json=CHAT, timeout=60)
        # As docs/tensors.md says: Triton 24.10 has one status for whatever a decoupled model refuses.
        assert refusal.status_code == 400
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


def test_serve_says_which_model_died_and_ends_when_a_stub_is_killed() -> None:
    """Triton 24.10 never starts a stub again, and calls its model ready for ever."""
    with running() as server:
        processes = server.processes()
        server.named("kimi_k2_engine_0_0").kill()
        assert server.process.wait(20) == 1
    log = (ROOT / ".cache" / "logs" / f"test-serve-{server.http}.log").read_text()
    assert "the process of kimi_k2_engine_0_0 died" in log
    until(lambda: gone(processes), 5)


def test_the_engines_load_is_on_metrics_within_250_ms() -> None:
    body = {"text_input": "Hi", "max_tokens": 5000, "ignore_eos": True, "stream": True}
    with running() as server, triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error or result.get_response().id))
        for number in range(STREAMS):
            client.async_stream_infer("kimi_k2_engine", list(inputs(body)), request_id=str(number))
        begun: set[str] = set()
        while len(begun) < STREAMS:
            begun.add(answers.get(timeout=60))
        time.sleep(AGE_SECONDS)
        assert load(server) == (STREAMS, 0)
        client.stop_stream(cancel_requests=True)
        cancelled = time.monotonic()
        until(lambda: load(server) == (0, 0), 5)
        # A cancel may take 250 ms of its own, and `until` looks every 100.
        assert time.monotonic() - cancelled < 0.25 + AGE_SECONDS + 0.1


STREAMS = 4
AGE_SECONDS = 0.25


def load(server: Server) -> tuple[int, int]:
    """What Triton's page says: requests running and queued in the scheduler."""
    page = httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=10).text
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("sglang:num_"))
    found = {name.partition("{")[0]: int(float(value)) for name, value in values.items()}
    return found["sglang:num_running_reqs"], found["sglang:num_queue_reqs"]


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
        end(process, 40)


def read_elsewhere(client: Any) -> None:
    """A request of the ensemble that is large enough for a reader of its own."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error))
    body = {"messages": '[{"role":"user","content":"Hi"}]' + " " * 2**21, "max_tokens": 2}
    client.async_stream_infer("kimi_k2", list(inputs(body)))
    assert answers.get(timeout=60) is None
    client.stop_stream()


def readers(family: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in family if "kimi_k2_serving.triton.chat.reader" in each.cmdline()]


def process_names(server: subprocess.Popen[bytes]) -> list[str]:
    return sorted(each.name() for each in psutil.Process(server.pid).children(recursive=True))


def open_files(server: subprocess.Popen[bytes]) -> int:
    """How many files and sockets it has open, less those that it closes within a second."""
    counts = []
    for _ in range(10):
        counts.append(psutil.Process(server.pid).num_fds())
        time.sleep(0.1)
    return min(counts)


def tree(path: Path) -> dict[str, str]:
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in path.rglob("*")
        # The interpreter's own, there from the first load on.
        if each.is_file() and each.parent.name != "__pycache__"
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
            read_elsewhere(client)
            loaded = psutil.Process(process.pid).children(recursive=True)
            names.append(process_names(process))
            entries.append(shared_memory(loaded))
            for model in ("kimi_k2", "kimi_k2_preprocess", "kimi_k2_engine", "kimi_k2_postprocess"):
                client.unload_model(model)
            until(lambda: not psutil.Process(process.pid).children(recursive=True), 60)
            assert [entry for entry in entries[-1] if entry.exists()] == []
            files.append(open_files(process))
        assert names[0] == names[1]
        assert len(entries[0]) == len(entries[1])
        assert files[0] == files[1]
        client.close()
    assert tree(repository) == content


ENGINE_PROCESSES = ("sglang::",)
STUBS = ("triton_python_b",)


@pytest.mark.parametrize("victim", ["triton", "stub"])
def test_no_engine_outlives_a_killed_stub_or_a_killed_triton_by_more_than_5_s(tmp_path: Path, victim: str) -> None:
    """No launcher sees to it here: each stub watches for Triton's end, and takes the memory that it shares along."""
    with plain_triton(ROOT / "model_repository", log=tmp_path / "log") as (process, port):
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{port}")
        until(lambda: process.poll() is not None or (is_live(client) and client.is_model_ready("kimi_k2")), 240)
        family = psutil.Process(process.pid).children(recursive=True)
        engine = [each for each in family if each.name().startswith(ENGINE_PROCESSES)]
        stubs = [each for each in family if each.name().startswith(STUBS)]
        read_elsewhere(client)
        (reader,) = readers(psutil.Process(process.pid).children(recursive=True))
        assert len(engine) >= 2
        assert len(stubs) == 3
        entries = shared_memory(family)
        (own,) = [each for each in stubs if "kimi_k2_engine_0_0" in each.cmdline()]
        client.close()
        if victim == "triton":
            # As in the middle of a long request, where it sees no end of its input.
            reader.suspend()
            process.kill()
            process.wait()
        else:
            own.kill()
        until(lambda: gone(engine), 5)
        until(lambda: gone([*stubs, reader] if victim == "triton" else [own]), 5)
        # A killed stub's own region is Triton's, until that ends.
        left = {entry for entry in entries if victim == "triton" or "_backend_shm_region_" not in entry.name}
        until(lambda: not any(entry.exists() for entry in left), 5)
    # What nobody was left to remove.
    for entry in entries:
        entry.unlink(missing_ok=True)
    shutil.rmtree(settings.runtime_base() / f"kimi-k2-{process.pid}", ignore_errors=True)


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
