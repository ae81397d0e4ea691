"""What operators rely on: keys, bounds, health, log, disconnects, keep-alive, the end of a process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from kimi_k2_serving.core.errors import InvalidRequest, NotFound
from kimi_k2_serving.core.limits import JSON_BYTES
from kimi_k2_serving.frontend.app import PUBLIC, ROUTES, create_app
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.port import Health
from kimi_k2_serving.frontend.service import Service
from tests.frontend.asking import chat, messages
from tests.frontend.scripted import ScriptedEngine
from tests.support.attempts import ATTEMPTS

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"


def client(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(service)), base_url="http://test")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY} name=a priority=5 concurrency=1 cache_salt=pepper\n\n{OTHER}\n")
    return Keys.load(file)


class Connection:
    """One request driven by hand: its body is there, and the client leaves when told to."""

    def __init__(self, service: Service, body: dict[str, Any], path: str = PATH, *, reads: bool = True) -> None:
        self._body = json.dumps(body).encode()
        self._reads = reads
        self._sent = False
        self.gone = asyncio.Event()
        self.messages: list[Any] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
            "root_path": "",
        }
        self.task = asyncio.ensure_future(create_app(service)(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if not self._reads:
            await asyncio.sleep(60)
        self.messages.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


async def test_without_a_key_every_route_but_health_is_closed(make_service: Callable[..., Service], keys: Keys) -> None:
    async with client(make_service(keys=keys)) as http:
        for path, _, method, _ in ROUTES:
            for given in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"authorization": KEY}):
                response = await http.request(method, path.replace("{id:path}", "kimi_k2"), headers=given)
                assert (response.status_code == 401) == (path not in PUBLIC), path
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            assert (await http.request(method, "/anything")).status_code == 401


async def test_a_key_opens_by_either_header(make_service: Callable[..., Service], keys: Keys) -> None:
    async with client(make_service(keys=keys)) as http:
        for given in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {OTHER}"}, {"x-api-key": OTHER}):
            assert (await http.get("/v1/models", headers=given)).status_code == 200
        refused = await http.get("/v1/models")
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        refused = await http.post("/v1/messages", json=messages("say ab"))
        assert refused.json()["error"]["type"] == "authentication_error"


async def test_a_key_brings_its_priority_salt_and_bound(
    make_service: Callable[..., Service], keys: Keys, engine: ScriptedEngine
) -> None:
    given = {"x-api-key": KEY}
    async with client(make_service(keys=keys)) as http:
        first = asyncio.create_task(http.post(PATH, json=chat("wait 0.2 say ab"), headers=given))
        await until(lambda: engine.in_flight == 1)
        second = await http.post(PATH, json=chat("say ab"), headers=given)
        other = await http.post(PATH, json=chat("say ab"), headers={"x-api-key": OTHER})
        assert (second.status_code, second.json()["error"]["code"]) == (429, "overloaded")
        assert second.headers["retry-after"] == "1"
        assert other.status_code == (await first).status_code == 200
        assert (await http.post(PATH, json=chat("say ab"), headers=given)).status_code == 200
    assert (engine.runs[0].priority, engine.runs[0].cache_salt) == (5, "pepper")
    assert (engine.runs[1].priority, engine.runs[1].cache_salt) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "short\n",
        f"{KEY}\n{KEY}\n",
        f"{KEY} colour=red\n",
        f"{KEY} priority=x\n",
        f"{KEY} concurrency=0\n",
        f"{KEY} priority=101\n",
        f"{KEY} cache_salt={'x' * 257}\n",
        f"{KEY} name=a\n{OTHER} name=a\n",
    ],
)
def test_a_key_file_that_is_wrong_is_refused_without_a_key_in_the_message(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        Keys.load(file)
    assert "sk-" not in str(caught.value)
    with pytest.raises(NotFound):
        Keys.load(tmp_path / "nothing")


async def test_too_many_requests_at_once_are_refused(
    make_service: Callable[..., Service], engine: ScriptedEngine
) -> None:
    async with client(make_service(policy=Policy(in_flight=1))) as http:
        first = asyncio.create_task(http.post(PATH, json=chat("wait 0.2 say ab")))
        await until(lambda: engine.in_flight == 1)
        assert (await http.post(PATH, json=chat("say ab"))).status_code == 429
        await first


async def test_readiness_is_the_engines_and_liveness_is_not(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    assert (await http.get("/health/ready")).status_code == 200
    engine.state = Health(False, "the engine is restarting")
    refused = await http.get("/health/ready")
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    assert "restarting" in refused.json()["error"]["message"]
    assert (await http.get("/health/live")).status_code == 200
    assert engine.runs == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"", {}, 400),
        (b"\xff{}", {}, 400),
        (b'{"a": NaN}', {}, 400),
        (b'{"model": "kimi_k2", "model": "kimi_k2"}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (b" " * (JSON_BYTES.value + 1), {}, 413),
    ],
)
@pytest.mark.parametrize("path", [PATH, "/v1/messages"])
async def test_what_is_no_request_is_refused_in_the_envelope(
    http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = await http.post(path, content=body, headers={"content-type": "application/json", **headers})
    assert response.status_code == status
    assert ("type" in response.json()) == (path == "/v1/messages")
    assert response.json()["error"]["message"]


async def test_a_body_without_a_length_is_bounded_as_it_comes(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 2**20

    response = await http.post(PATH, content=endless(), headers={"content-type": "application/json"})
    assert response.status_code == 413


async def test_a_body_that_never_comes_is_given_up(make_service: Callable[..., Service]) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with client(make_service(policy=Policy(body_seconds=0.05))) as http:
        response = await http.post(PATH, content=stalled(), headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (408, "deadline_exceeded")


async def test_other_methods_and_paths_are_told_so_and_no_origin_is_let_in(http: httpx.AsyncClient) -> None:
    wrong = await http.get(PATH, headers={"origin": "http://evil"})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (await http.post("/nowhere", content=b"")).status_code == 404
    preflight = await http.options(PATH, headers={"origin": "http://evil", "access-control-request-method": "POST"})
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


async def test_a_request_id_is_the_clients_if_it_is_harmless(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/models", headers={"x-request-id": "trace-1"})
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == "trace-1"
    for given in ("a b", "x" * 65, 'a"b'):
        assert (await http.get("/v1/models", headers={"x-request-id": given})).headers["x-request-id"] != given


async def test_the_log_and_the_metrics_have_no_content(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await http.post(PATH, json=chat("say confidential"))
    await http.post(PATH, json=chat("say ab", confidential=1))
    await http.post("/confidential", json={})
    ours = [record for record in caplog.records if record.name.startswith("kimi_k2_serving")]
    lines = [json.loads(record.message) for record in ours if record.name.endswith("access")]
    assert [line["status"] for line in lines] == [200, 400, 404]
    assert lines[0]["completion_tokens"] == 13
    assert len(lines[0]["generations"]) == 1, "the engine's log names the answer by this"
    metrics = (await http.get("/metrics")).text
    assert 'kimi_k2_frontend_requests_total{route="/v1/chat/completions",status="200"} 1.0' in metrics
    assert "confidential" not in metrics + "".join(record.getMessage() for record in ours)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("path", "make"), [(PATH, chat), ("/v1/messages", messages)])
async def test_a_client_that_leaves_before_the_first_token_ends_the_generation(
    service: Service, engine: ScriptedEngine, stream: bool, n: int, path: str, make: Callable[..., dict[str, Any]]
) -> None:
    options = {"n": n} if path == PATH else {}
    times: list[float] = []
    while len(times) < ATTEMPTS and (not times or times[-1] >= 0.25):
        connection = Connection(service, make("wait 60 say ab", stream=stream, **options), path)
        await until(lambda: engine.in_flight >= 1)
        left = asyncio.get_running_loop().time()
        connection.gone.set()
        await until(lambda: engine.in_flight == 0)
        times.append(asyncio.get_running_loop().time() - left)
        await connection.task
        assert connection.messages == []
    assert min(times) < 0.25


async def test_a_client_that_leaves_in_mid_stream_ends_the_generation(service: Service, engine: ScriptedEngine) -> None:
    engine._pause = 0.01
    connection = Connection(service, chat("say " + "x" * 1000, stream=True))
    await until(lambda: "content" in connection.text)
    connection.gone.set()
    await until(lambda: engine.in_flight == 0)
    await connection.task
    assert engine.ended_early == 1


async def test_a_client_that_takes_nothing_is_dropped(
    make_service: Callable[..., Service], engine: ScriptedEngine
) -> None:
    service = make_service(policy=Policy(stalled_seconds=0.05))
    connection = Connection(service, chat("say " + "x" * 500, stream=True), reads=False)
    async with asyncio.timeout(30):
        await connection.task
    assert (engine.in_flight, engine.ended_early) == (0, 1)


@pytest.mark.parametrize(
    ("path", "make", "sign"), [(PATH, chat, ": keep-alive\n\n"), ("/v1/messages", messages, "event: ping\n")]
)
async def test_a_silent_stream_is_kept_alive_before_its_first_token(
    make_service: Callable[..., Service], path: str, make: Callable[..., dict[str, Any]], sign: str
) -> None:
    async with client(make_service(policy=Policy(keep_alive=0.02))) as http:
        text = (await http.post(path, json=make("wait 0.1 say ab", stream=True))).text
        assert text.startswith(sign)
        assert '"a"' in text
        # Once the stream has begun an error can only be in it.
        late = await http.post(path, json=make("wait 0.1 fail overloaded", stream=True))
        assert late.status_code == 200
        assert '"as the script says"' in late.text


async def test_when_the_grace_is_over_a_stream_ends_with_one_error(service: Service, engine: ScriptedEngine) -> None:
    engine._pause = 0.01
    connection = Connection(service, chat("say " + "x" * 1000, stream=True))
    await until(lambda: "content" in connection.text)
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert engine.in_flight == 0
    assert connection.text.count("shutting_down") == 1
    assert connection.messages[-1]["more_body"] is False


async def test_a_defect_is_a_fixed_sentence(
    service: Service, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Any) -> AsyncIterator[Any]:
        raise RuntimeError("secret /path")
        yield

    engine.generate = broken  # type: ignore[method-assign, assignment]
    async with client(service) as http:
        response = await http.post(PATH, json=chat("say ab"))
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert "secret" in caplog.text
