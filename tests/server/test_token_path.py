"""Ids of a frontend on this machine go past Triton, and its answers are those of a frontend elsewhere."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kimi_k2_serving.engine.abort_channel import TOKENS, socket_path
from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.frontend import triton_engine
from kimi_k2_serving.frontend.token_reader import Inbox, TokenReader
from kimi_k2_serving.frontend.triton_engine import MODEL, TritonEngine, read_response
from tests.frontend.running import another, over, runtime
from tests.server.running import Server
from tests.server.test_chat import WEATHER

Urls = tuple[str, str]


@pytest.fixture(scope="module")
def urls(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    """A frontend that reads ids from the engine's socket, and one that finds no socket."""
    nowhere = str(tmp_path_factory.mktemp("nowhere"))
    with (
        over(server, "--runtime-dir", str(runtime(server))) as direct,
        over(server, "--runtime-dir", nowhere) as elsewhere,
    ):
        yield direct, elsewhere


def body(**options: Any) -> dict[str, Any]:
    content = [{"role": "user", "content": "Say something: żółć 漢字 🙂"}]
    return {"model": "kimi_k2", "messages": content, "max_tokens": 40, "temperature": 0, "seed": 7, **options}


def responses(server: Server, monkeypatch: pytest.MonkeyPatch, *, direct: bool) -> tuple[list[int], int]:
    """A generation's ids, as the frontend's own code reads them, and how many responses came through Triton."""
    count = 0

    def counted(response: Any, inbox: Inbox) -> bool:
        nonlocal count
        count += 1
        return read_response(response, inbox)

    async def ids() -> list[int]:
        tokens = TokenReader(socket_path(runtime(server), MODEL, TOKENS)) if direct else None
        engine = TritonEngine(f"127.0.0.1:{server.grpc}", tokens=tokens)
        await engine.open()
        await asyncio.sleep(1)
        sampling = {"max_new_tokens": 20, "temperature": 0.0, "ignore_eos": True}
        asked = Generation(uid=uuid.uuid4().hex, input_ids=[5, 6, 7], sampling=sampling, stream=True)
        try:
            return [token async for chunk in engine.generate(asked) for token in chunk.ids]
        finally:
            await engine.close()

    monkeypatch.setattr(triton_engine, "read_response", counted)
    return asyncio.run(ids()), count


def steady(value: Any) -> Any:
    """Without ids, times, and what depends on the cache."""
    if isinstance(value, dict):
        left_out = ("id", "created", "cached_tokens", "prompt_tokens_details")
        return {key: steady(each) for key, each in value.items() if key not in left_out}
    return [steady(each) for each in value] if isinstance(value, list) else value


def whole(url: str, path: str, asked: dict[str, Any]) -> Any:
    return steady(httpx.post(f"{url}{path}", json=asked, timeout=120).raise_for_status().json())


def streamed(url: str, path: str, asked: dict[str, Any]) -> list[Any]:
    """Each choice's text, log-probabilities and finish reasons, and the usage."""
    choices: dict[int, list[Any]] = {}
    usage: list[Any] = []
    with httpx.stream(
        "POST", f"{url}{path}", json={**asked, "stream": True, "stream_options": {"include_usage": True}}, timeout=120
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.count("[DONE]") == 1
    for event in map(json.loads, lines[:-1]):
        usage += [steady(event["usage"])] if event.get("usage") else []
        for choice in event["choices"]:
            found = choices.setdefault(choice["index"], ["", [], []])
            delta = choice.get("delta", {"content": choice.get("text")})
            found[0] += delta.get("content") or "".join(
                call["function"].get("arguments", "") for call in delta.get("tool_calls") or ()
            )
            found[1] += (choice.get("logprobs") or {}).get("content") or []
            found[2] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return [choices, usage]


ASKED = {
    "plain": ("/v1/chat/completions", body()),
    "three choices": ("/v1/chat/completions", body(n=3)),
    "a stop string": ("/v1/chat/completions", body(stop=["e"])),
    "log-probabilities": ("/v1/chat/completions", body(logprobs=True, top_logprobs=3)),
    "a call": ("/v1/chat/completions", body(tools=[WEATHER], tool_choice="required", max_tokens=400)),
    "two prompts": ("/v1/completions", {"model": "kimi_k2", "prompt": ["a", "bc"], "max_tokens": 20, "temperature": 0}),
    "one token": ("/v1/chat/completions", body(max_tokens=1)),
}


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_is_the_same_with_and_without_the_socket(urls: Urls, name: str) -> None:
    direct, elsewhere = urls
    assert whole(direct, *ASKED[name]) == whole(elsewhere, *ASKED[name])
    assert streamed(direct, *ASKED[name]) == streamed(elsewhere, *ASKED[name])


def test_ids_of_a_frontend_here_do_not_pass_through_triton(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, many = responses(server, monkeypatch, direct=False)
    here, one = responses(server, monkeypatch, direct=True)
    assert here == elsewhere
    assert one == 1, "only the end"
    assert many > 10


def test_a_killed_frontend_leaves_no_generation_and_harms_no_other(urls: Urls, server: Server) -> None:
    long = body(max_tokens=4000, stream=True, ignore_eos=True)
    with (
        another(server) as (url, process),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=long, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            list(lines)
    killed = time.monotonic()
    assert streamed(urls[0], *ASKED["plain"]) == streamed(urls[1], *ASKED["plain"])
    while running(server):
        assert time.monotonic() - killed < 10
        time.sleep(0.1)


def running(server: Server) -> float:
    """The requests in the scheduler's batch."""
    lines = httpx.get(f"http://127.0.0.1:{server.metrics}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("sglang:num_running_reqs{"))


@pytest.mark.slow
def test_streams_end_once_when_the_host_is_killed_and_ids_take_the_socket_again_after_its_restart(
    urls: Urls, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = body(max_tokens=4000, stream=True, ignore_eos=True)
    with httpx.stream("POST", f"{urls[0]}/v1/chat/completions", json=long, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.named("sglang::host").send_signal(signal.SIGKILL)
        rest = "\n".join(lines)
    assert rest.count("engine_lost") >= 1
    assert rest.count("[DONE]") <= 1
    begin = time.monotonic()
    while httpx.post(f"{urls[0]}/v1/chat/completions", json=body(), timeout=60).status_code != 200:
        assert time.monotonic() - begin < 120
        time.sleep(0.2)
    assert responses(server, monkeypatch, direct=True)[1] == 1


@pytest.mark.slow
def test_a_stopped_frontend_holds_nobody_up_and_its_requests_end(urls: Urls, server: Server) -> None:
    """It reads nothing for `slow_reader_seconds`, 30 in the demo's preset, while ids with log-probabilities wait."""
    heavy = body(max_tokens=4000, stream=True, ignore_eos=True, n=8, logprobs=True, top_logprobs=20)
    with (
        another(server) as (url, process),
        httpx.stream("POST", f"{url}/v1/chat/completions", json=heavy, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            assert streamed(urls[0], *ASKED["plain"]) == streamed(urls[1], *ASKED["plain"])
            assert time.monotonic() - stopped < 20
            assert running(server) > 0
            while running(server):
                assert time.monotonic() - stopped < 60, "its requests go on for nobody"
                time.sleep(0.5)
        finally:
            process.send_signal(signal.SIGCONT)
        rest = [line for line in lines if line]
    assert '"cancelled"' in rest[-1] or '"engine_lost"' in rest[-1]
