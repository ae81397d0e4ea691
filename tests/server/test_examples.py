"""Each program in examples/ runs as it stands and prints what it promises.

The one for Anthropic's SDK, which is not in this environment, runs in tests/frontend/clients.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.frontend.running import over
from tests.server.running import ROOT, Server

EXAMPLES = ROOT / "examples"
ELSEWHERE = {"anthropic_messages.py"}
FRONTEND = {
    "openai_chat.py": r"\[\d+ prompt tokens, \d+ new ones\]\n$",
    "openai_tools.py": r"^get_weather\(\{.*\}\) -> \{\"city\"",
    "openai_structured.py": r"^priority (low|normal|high), needs a reply: (True|False)\n$",
    "openai_async.py": r"(?s)^Who are you\? -> .*Tell me a long story\. -> ",
}
GRPC = {
    "triton_chat.py": r"(stop|length)\n\{.*\"prompt_tokens\"",
    "triton_engine.py": r"^\d+ ids, finish_reason (stop|length): \[",
    "triton_prompt.py": r"^\d+ ids: \[\d+(, \d+){10,}\]\n$",
}


@pytest.fixture(scope="module")
def frontend(server: Server) -> Iterator[str]:
    with over(server) as url:
        yield url


def output(*words: str) -> str:
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_example_is_run_here_or_with_the_clients() -> None:
    run = {*FRONTEND, *GRPC, *ELSEWHERE, "kimi_client.py", "triton_http.sh"}
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")} == run
    index = (EXAMPLES / "README.md").read_text("utf-8")
    assert {name for name in run if f"({name})" not in index} == set()


@pytest.mark.parametrize("name", FRONTEND)
def test_an_example_for_the_frontend_runs(frontend: str, name: str) -> None:
    assert re.search(FRONTEND[name], output(sys.executable, f"examples/{name}", frontend))


@pytest.mark.parametrize("name", GRPC)
def test_an_example_for_tritonclient_runs(server: Server, name: str) -> None:
    assert re.search(GRPC[name], output(sys.executable, f"examples/{name}", f"127.0.0.1:{server.grpc}"))


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_example_for_the_client_runs_over_both_transports(server: Server, scheme: str) -> None:
    port = server.grpc if scheme == "grpc" else server.http
    assert re.search(
        r"\[\d+ tokens\]\n$",
        output(sys.executable, "examples/kimi_client.py", f"{scheme}://127.0.0.1:{port}"),
    )


def test_the_example_for_curl_runs(server: Server) -> None:
    lines = output("examples/triton_http.sh", server.url).splitlines()
    assert '"finish_reason":' in lines[0]
    assert any("get_weather" in line for line in lines)
    assert '"finish_reason":"tool_calls"' in lines[-1] or '"finish_reason":"tool_calls"' in lines[-2]
