"""Places are given at the head: who gets none has nothing read, and who has one holds it while the body comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.keys import Keys
from kimi_k2_serving.frontend.policy import Policy
from kimi_k2_serving.frontend.service import Service
from tests.frontend.asking import chat

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
KEY, OTHER = "sk-0123456789abcdef", "sk-fedcba9876543210"


class Client:
    """One request whose body comes when told to; `asked` counts how often more of it was wanted."""

    def __init__(self, service: Service, key: str = "", body: bytes = b"") -> None:
        self._body = body or json.dumps(chat("say ab")).encode()
        self._answer: list[Any] = []
        self.asked = 0
        self.sends = asyncio.Event()
        headers = [(b"content-type", b"application/json"), (b"x-api-key", key.encode())]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers}
        app = create_app(service)
        self.task = asyncio.ensure_future(
            app({**scope, "query_string": b"", "root_path": ""}, self._receive, self._send)
        )

    async def _receive(self) -> Any:
        self.asked += 1
        if self.asked > 1:
            await asyncio.sleep(60)
        await self.sends.wait()
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Any) -> None:
        self._answer.append(message)

    async def status(self) -> int:
        async with asyncio.timeout(10):
            await self.task
        return int(self._answer[0]["status"])


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    file = tmp_path / "keys"
    file.write_text(f"{KEY} concurrency=1\n{OTHER}\n")
    return Keys.load(file)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all bodies that were decoded."""
    found: list[int] = []
    loads = strict_json.loads

    def spy(text: str | bytes, *, field: str) -> Any:
        found.append(len(text))
        return loads(text, field=field)

    monkeypatch.setattr(strict_json, "loads", spy)
    return found


async def begun(*clients: Client) -> None:
    async with asyncio.timeout(30):
        while not all(each.asked for each in clients):  # noqa: ASYNC110 - the client tells by its count alone
            await asyncio.sleep(0.001)


async def test_a_key_s_concurrency_counts_before_a_body_is_there(
    make_service: Callable[..., Service], keys: Keys, decoded: list[int]
) -> None:
    service = make_service(keys=keys)
    first = Client(service, KEY)
    await begun(first)
    second = Client(service, KEY, b"[" * 10**6)
    assert await second.status() == 429
    assert (second.asked, decoded) == (0, [])
    other = Client(service, OTHER)
    other.sends.set()
    first.sends.set()
    assert (await other.status(), await first.status()) == (200, 200)
    assert len(decoded) == 2


async def test_all_places_count_before_a_body_is_there(
    make_service: Callable[..., Service], decoded: list[int]
) -> None:
    service = make_service(policy=Policy(in_flight=2))
    waiting = [Client(service) for _ in range(2)]
    await begun(*waiting)
    refused = Client(service)
    assert await refused.status() == 429
    assert (refused.asked, decoded) == (0, [])
    for each in waiting:
        each.sends.set()
        assert await each.status() == 200
    late = Client(service)
    late.sends.set()
    assert await late.status() == 200


async def test_a_wrong_key_and_a_wrong_type_have_no_body_read(
    make_service: Callable[..., Service], keys: Keys, decoded: list[int]
) -> None:
    stranger = Client(make_service(keys=keys), "sk-wrong")
    assert await stranger.status() == 401
    assert (stranger.asked, decoded) == (0, [])
