"""`scripts/serve` with its frontend: both dialects answer over the real engine, and a frontend that dies comes back."""

from __future__ import annotations

import json
import subprocess

import httpx
import psutil

from tests.server.running import ROOT, environment, free_ports, wait_for
from tests.server.test_chat import WEATHER, check_calls


def test_both_apis_serve_tool_calls_and_a_killed_frontend_comes_back() -> None:
    http, grpc, metrics, port = free_ports(4)
    flags = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--frontend-port", port, "--json"]
    line = [str(ROOT / "scripts" / "serve"), *map(str, flags)]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as serve:
        try:
            assert serve.stdout is not None
            assert json.loads(serve.stdout.readline())["frontend_port"] == port
            url = f"http://127.0.0.1:{port}"
            openai(url)
            anthropic(url)
            kill_frontend(serve.pid)
            wait_for(f"{url}/health/ready", 30)
            openai(url)
        finally:
            serve.terminate()
            assert serve.wait(30) == 0


def openai(url: str) -> None:
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 2000}
    answer = httpx.post(
        f"{url}/v1/chat/completions", json={**body, "tools": [WEATHER], "tool_choice": "required"}, timeout=120
    )
    (choice,) = answer.raise_for_status().json()["choices"]
    calls = [{"id": each["id"], **each["function"]} for each in choice["message"]["tool_calls"]]
    check_calls(calls, choice["finish_reason"])


def anthropic(url: str) -> None:
    function = WEATHER["function"]
    assert isinstance(function, dict)
    tool = {"name": function["name"], "input_schema": function["parameters"]}
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 2000}
    answer = httpx.post(
        f"{url}/v1/messages", json={**body, "tools": [tool], "tool_choice": {"type": "any"}}, timeout=120
    ).raise_for_status()
    message = answer.json()
    assert message["stop_reason"] == "tool_use"
    assert {block["name"] for block in message["content"] if block["type"] == "tool_use"} == {"get_weather"}


def kill_frontend(serve: int) -> None:
    for process in psutil.Process(serve).children():
        if "kimi_k2_serving.frontend" in " ".join(process.cmdline()):
            process.kill()
            process.wait(10)
            return
    raise AssertionError("no frontend among the children of serve")
