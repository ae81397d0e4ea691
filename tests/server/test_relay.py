"""An answer's ids go past Triton to postprocess, and what ends a stream of the ensemble still ends it once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from tests.server.running import Server, running
from tests.server.test_chat import over_grpc


def executions(server: Server) -> float:
    """How often Triton has called postprocess."""
    lines = httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=30).text.splitlines()
    name = 'nv_inference_exec_count{model="kimi_k2_postprocess"'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def long(**more: Any) -> dict[str, Any]:
    return {"text_input": "Hi", "max_tokens": 20_000, "ignore_eos": True, "stream": True, **more}


def errors(lines: Iterable[str]) -> list[str]:
    """The errors among a stream's events. The model's random text may say "error", too."""
    events = (json.loads(line.removeprefix("data: ")) for line in lines if line)
    return [event["error"] for event in events if "error" in event]


def test_ids_of_a_streamed_answer_do_not_pass_through_triton(server: Server) -> None:
    body = {"text_input": "Hi", "max_tokens": 300, "ignore_eos": True, "temperature": 0.0}
    whole = httpx.post(server.generate(), json=body, timeout=60).json()
    before = executions(server)
    responses = over_grpc(server, {**body, "stream": True})
    assert "".join(each["text_output"] for each in responses) == whole["text_output"]
    assert json.loads(responses[-1]["usage"])["completion_tokens"] == 300
    assert len(responses) > 30
    # The first ids, the opening, an empty response each second, the end.
    assert executions(server) - before < 30


@pytest.mark.slow
def test_a_killed_host_ends_relayed_streams_with_one_error_each_and_a_later_stop_is_quick() -> None:
    with running() as server:
        ends = []
        for _ in range(2):
            with httpx.stream("POST", server.generate(stream=True), json=long(), timeout=60) as answer:
                lines = answer.iter_lines()
                for _ in range(40):
                    next(lines)
                server.named("sglang::host").send_signal(signal.SIGKILL)
                ends.append(errors(lines))
            begin = time.monotonic()
            while (
                httpx.post(server.generate(), json={"text_input": "x", "max_tokens": 1}, timeout=60).status_code != 200
            ):
                assert time.monotonic() - begin < 120
                time.sleep(0.2)
        assert [len(each) for each in ends] == [1, 1]
        assert all("engine_lost" in each[0] for each in ends)
        before = executions(server)
        over_grpc(server, {"text_input": "Hi", "max_tokens": 300, "ignore_eos": True, "stream": True})
        assert executions(server) - before < 30, "the restarted engine's socket is read"
        # A request that Triton still counts as in flight would take its whole exit timeout of 8 s.
        assert server.stop() < 7


@pytest.mark.slow
def test_a_deadline_ends_a_relayed_stream_with_its_error(server: Server) -> None:
    with httpx.stream("POST", server.generate(stream=True), json=long(timeout_ms=1500), timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert len(lines) > 10
    (error,) = errors(lines)
    assert "deadline_exceeded" in error
    assert errors(lines[-1:]) == [error]
