"""The page's route, and the engine's state that it polls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.hosts import Hosts
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.page import Page
from kimi_k2_serving.frontend.port import Health
from kimi_k2_serving.frontend.server import parse_flags
from kimi_k2_serving.frontend.service import Service
from kimi_k2_serving.frontend.status import FRESH_SECONDS, EngineLoad, EngineWatch, TritonMetrics, read_load
from tests.frontend.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio

METRICS = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model="kimi_k2_engine"} 3
sglang:num_running_reqs{model="another"} 50
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{model="kimi_k2_engine"} 2
# TYPE sglang_backend:waiting_requests gauge
sglang_backend:waiting_requests{model="kimi_k2_engine"} 4
# TYPE sglang:token_usage gauge
sglang:token_usage{model="kimi_k2_engine"} 0.25
# TYPE sglang_backend:engine_restarts counter
sglang_backend:engine_restarts{model="kimi_k2_engine"} 1
"""


def client(service: Service, page: Page | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=create_app(service, page=page))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def triton(answer: Callable[[httpx.Request], httpx.Response]) -> TritonMetrics:
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return TritonMetrics("127.0.0.1:8002", "kimi_k2_engine", http=http)


async def test_the_page_is_sent_with_its_policy_and_only_if_it_is_on(service: Service) -> None:
    async with client(service, Page.load()) as http:
        answer = await http.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.post("/", json={})).status_code == 405
    async with client(service) as http:
        assert (await http.get("/")).status_code == 404


async def test_with_keys_the_page_is_public_and_the_engines_state_is_not(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-0123456789abcdef\n")
    async with client(make_service(keys=Keys.load(file)), Page.load()) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.get("/engine")).status_code == 401
        known = {"authorization": "Bearer sk-0123456789abcdef"}
        assert (await http.get("/engine", headers=known)).status_code == 200


async def test_the_page_answers_only_to_this_machines_names(make_service: Callable[..., Service]) -> None:
    async with client(make_service(hosts=Hosts.of()), Page.load()) as http:
        assert (await http.get("/", headers={"host": "evil.example"})).status_code == 421


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], True),
        (["--host", "::1"], True),
        (["--no-page"], False),
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--page"], True),
    ],
)
def test_the_page_is_on_for_loopback_and_where_it_is_asked_for(
    flags: list[str], shown: bool, small_checkpoint: Path
) -> None:
    assert parse_flags(["--checkpoint", str(small_checkpoint), *flags], {}).page is shown


async def test_the_engines_state_is_200_in_both_cases(service: Service, engine: ScriptedEngine) -> None:
    async with client(service) as http:
        answer = (await http.get("/engine")).json()
        assert answer == {
            "ready": True, "reason": "", "running": None, "queued": None, "kv_usage": None, "restarts": None
        }  # fmt: skip
    engine.state = Health(False, "the engine is restarting")
    service.watch = EngineWatch(engine.health)
    async with client(service) as http:
        answer = await http.get("/engine")
        assert (answer.status_code, answer.json()["ready"]) == (200, False)
        assert answer.json()["reason"] == "the engine is restarting"


def test_the_load_is_that_of_the_engine_model_and_what_waits_is_added() -> None:
    assert read_load(METRICS, "kimi_k2_engine") == EngineLoad(running=3, queued=6, kv_usage=0.25, restarts=1)
    assert read_load("", "kimi_k2_engine") == EngineLoad()


async def test_a_metrics_page_that_cannot_be_read_leaves_the_load_unknown() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    for answer in (refuse, lambda _: httpx.Response(500), lambda _: httpx.Response(200, text="<html>{")):
        assert await triton(answer).load() == EngineLoad()
    assert (await triton(lambda _: httpx.Response(200, text=METRICS)).load()).running == 3


async def test_many_pages_ask_the_engine_once_in_a_while() -> None:
    asked, now = [], [0.0]

    async def health() -> Health:
        asked.append(now[0])
        return Health(True)

    watch = EngineWatch(health, clock=lambda: now[0])
    for _ in range(20):
        await watch.status()
    assert asked == [0.0]
    now[0] = FRESH_SECONDS
    await watch.status()
    assert asked == [0.0, FRESH_SECONDS]
