"""With KIMI_K2_LOG_FORMAT=json all that a real server writes is JSON lines, and no line has what a client said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.server.running import ROOT, environment, free_ports, wait_for

SECRET = "zanzibarwintersolstice"
VARIABLES = {"KIMI_K2_LOG_FORMAT": "json"}


def test_every_line_of_a_whole_server_is_json_and_none_has_content(tmp_path: Path) -> None:
    http, grpc, metrics, port = free_ports(4)
    flags = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--frontend-port", port, "--json"]
    line = [str(ROOT / "scripts" / "serve"), "--preset", "demo-random", *map(str, flags)]
    own = tmp_path / "serve.log"
    with (
        own.open("w") as errors,
        subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment() | VARIABLES
        ) as serve,
    ):
        try:
            assert serve.stdout is not None
            ready = json.loads(serve.stdout.readline())
            wait_for(f"http://127.0.0.1:{port}/health/ready", 30)
            body = {"model": "kimi_k2", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            generate = f"http://127.0.0.1:{http}/v2/models/kimi_k2/generate"
            assert httpx.post(generate, json={"text_input": SECRET, "max_tokens": 4}, timeout=60).status_code == 200
            assert httpx.post(generate, json={"text_input": SECRET, "n": 9}, timeout=60).status_code == 400
        finally:
            serve.terminate()
            assert serve.wait(30) == 0
    logs = [own, Path(ready["log"]), Path(ready["log"]).with_name(f"frontend-{port}.log")]
    lines = [read(log) for log in logs]
    assert [{each["process"] for each in log} for log in (lines[0], lines[2])] == [{"serve"}, {"frontend"}]
    assert {"tritonserver", "sglang::host", "kimi_k2_engine"} <= {each["process"] for each in lines[1]}
    (access,) = [each for each in lines[2] if each.get("route") == "/v1/chat/completions"]
    assert access["request"] == answer.headers["x-request-id"]
    assert not any(SECRET in log.read_text() for log in logs)


def read(log: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(set(each) >= {"time", "level", "process", "pid", "message"} for each in found)
    return found
