"""Our own cost without an engine's: the real host, stub, Triton and frontend over a stand-in with scripted outputs.

`tests/bench/standin` replaces SGLang by PYTHONPATH in the host process. It makes tokens at a fixed rate, and the first
one of each request at once. So the time to the first token is what this project adds, and a stream that comes slower
than the rate says that the server does not keep up. Responses with more than one token say the same.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine import linux
from kimi_k2_serving.launch import backends, cli, serve
from kimi_k2_serving.launch.frontend import frontend_arguments
from kimi_k2_serving.launch.layout import checkout
from tests.bench.serving.arms import Arm
from tests.bench.serving.figures import Round, figures
from tests.bench.serving.load import Driver, Load, Outcome
from tests.bench.serving.measuring import say, start_drivers
from tests.bench.serving.processes import Tree, difference
from tests.bench.serving.servers import LOGS, OURS, Ports, Server
from tests.bench.serving.workload import Chats, Workload
from tests.server.running import ROOT, end, environment, wait_for

STANDIN = ROOT / "tests" / "bench" / "standin"
START_SECONDS = 120.0
# Places for all streams, and no queue in front of them.
ADMISSION = "admission: {requests: 2048, prompt_tokens: 1000000, queue: 2048}"
# A stream that is this much slower than its rate is behind.
KEPT = 0.98
ANSWER = 256
# Loads are two answers long: each stream begins at its own time, and then asks once more.
ANSWERS = 2


@contextmanager
def running(checkpoint: Path, ports: Ports, rate: float) -> Iterator[Server]:
    """Triton and the frontend over the stand-in, which makes `rate` tokens per second for each stream."""
    http, grpc, metrics, openai = ports.take(4)
    flags = {"--http-port": http, "--grpc-port": grpc, "--metrics-port": metrics, "--frontend-port": openai}
    options = cli.parse_options(["--preset", "demo", *(str(word) for pair in flags.items() for word in pair)])
    LOGS.mkdir(parents=True, exist_ok=True)
    backends.assemble(checkout().backends, backends.wheel(), checkout().backend_source)
    with tempfile.TemporaryDirectory(prefix="scripted-") as directory, (LOGS / "bench-scripted.log").open("w") as log:
        repository, runtime = Path(directory) / "models", Path(directory) / "run"
        shutil.copytree(checkout().model_repository, repository)
        roomy(repository / "kimi_k2_engine" / "1" / "engine.yaml")
        runtime.mkdir(0o700)
        model = serve.ServedCheckpoint(checkpoint, None, repository)
        command = serve.build_command(options, checkout(), model, runtime_dir=runtime)
        own = {"PYTHONPATH": str(STANDIN), "SCRIPTED_RATE": str(rate)}
        triton = _start(command.argv, {**command.merged(environment()), **own}, log)
        front = None
        try:
            wait_for(f"http://127.0.0.1:{http}/v2/models/kimi_k2/ready", START_SECONDS, triton, Path(log.name))
            python = Path(sys.executable)
            words = frontend_arguments(options, python=python, checkpoint=checkpoint, repository=repository)
            # As the launcher does: only Triton's stubs need the libraries of LD_LIBRARY_PATH.
            own = {name: value for name, value in command.merged(environment()).items() if name != "LD_LIBRARY_PATH"}
            front = _start(words, own, log)
            wait_for(f"http://127.0.0.1:{openai}/health/ready", START_SECONDS, front, Path(log.name))
            addresses = {"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}", "openai": f"127.0.0.1:{openai}"}
            yield Server(OURS, Tree((triton.pid, front.pid)), addresses)
        finally:
            for process in (front, triton):
                if process is not None:
                    end(process, 20)


def _start(command: Sequence[str], environ: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        preexec_fn=linux.die_with_parent,
    )


def roomy(engine: Path) -> None:
    text = engine.read_text()
    assert "admission: {}" in text
    engine.write_text(text.replace("admission: {}", ADMISSION))


def measure(
    checkpoint: Path, arms: Sequence[Arm], chats: Chats, *, streams: Sequence[int], rate: float, ports: Ports
) -> dict[str, Any]:
    """By arm and number of streams."""
    found: dict[str, Any] = {}
    with running(checkpoint, ports, rate) as server:
        clients = start_drivers(arms)
        try:
            for arm in arms:
                one_load(arm, server, clients, chats, 8, 1.0)
                for count in streams:
                    row = one_load(arm, server, clients, chats, count, rate)
                    found.setdefault(arm.name, {})[f"s{count}"] = row
                    say(f"scripted {count:4} {arm.name:14} {row['stream_rate_p50']:6.1f} of {rate:g} tokens/s a stream")
        finally:
            for driver in clients.values():
                driver.end()
    return found


def one_load(
    arm: Arm, server: Server, clients: dict[str, Driver], chats: Chats, streams: int, rate: float
) -> dict[str, Any]:
    answer = ANSWER if rate > 1 else 8
    asked = chats.chats(Workload("scripted", 64, answer), ANSWERS * streams)
    plain = arm.load(server, asked, streams)
    load = Load(plain.address, plain.path, streams, plain.requests, spread=answer / rate)
    before = server.tree.sample()
    outcome = arm.driver(server, clients).run(load)
    return row_of(outcome, difference(before, server.tree.sample()), streams, rate)


def row_of(outcome: Outcome, spent: Any, streams: int, rate: float) -> dict[str, Any]:
    row = figures([Round(outcome, spent, 0.0)])
    rates = sorted((answer.tokens - 1) / sum(answer.gaps) for answer in outcome.answers if sum(answer.gaps))
    median = statistics.median(rates)
    return {
        "streams": streams,
        "offered_tokens_per_second": streams * rate,
        "stream_rate_p50": round(median, 2),
        "stream_rate_p5": round(rates[len(rates) // 20], 2),
        "kept": median >= KEPT * rate,
        "added_ttft_p50_ms": row["ttft_p50_ms"],
        "added_ttft_p99_ms": row["ttft_p99_ms"],
        "tokens_per_response_p50": statistics.median(answer.tokens / answer.events for answer in outcome.answers),
        **{name: row[name] for name in row if "per_token" in name or name.startswith("itl")},
    }
