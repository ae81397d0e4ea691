"""Without keys on loopback the frontend answers under this machine's names alone (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.errors import Misdirected
from kimi_k2_serving.frontend.hosts import Hosts
from kimi_k2_serving.frontend.server import parse_flags
from kimi_k2_serving.frontend.service import Service
from tests.frontend.asking import chat, messages

pytestmark = pytest.mark.anyio

HOSTS = Hosts.of("My-Machine", "models.example.")
GOOD = [
    "localhost",
    "LocalHost:9000",
    "localhost.",
    "localhost.:80",
    "127.0.0.1",
    "127.8.9.10:1",
    "[::1]",
    "[::1]:9000",
    "my-machine:9000",
    "MODELS.example.",
    "localhost:",
]
BAD = [
    "",
    ":9000",
    "evil.example",
    "evil.example:9000",
    "localhost.evil.example",
    "localhost@evil.example",
    "127.0.0.1.evil.example",
    "localhost:9000:9000",
    "localhost:x",
    "localhost:١",
    "localhost, evil.example",
    "10.0.0.1",
    "0.0.0.0",
    "[::2]",
    "[::1",
    "[::1]x",
    "[localhost]",
    "::1",
    "2130706433",
    "http://localhost",
    "localhost/",
    " localhost",
    "localhost..",
]


def given(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"accept", b"*/*"), *((b"host", value.encode("latin-1", "replace")) for value in values)]


@pytest.mark.parametrize("value", GOOD)
def test_this_machines_names_are_taken(value: str) -> None:
    HOSTS.check(given(value))


@pytest.mark.parametrize("value", BAD)
def test_other_names_and_what_is_no_name_are_refused(value: str) -> None:
    with pytest.raises(Misdirected):
        HOSTS.check(given(value))


@pytest.mark.parametrize("values", [(), ("localhost", "localhost"), ("localhost", "evil.example")])
def test_there_is_exactly_one_host(values: tuple[str, ...]) -> None:
    with pytest.raises(Misdirected):
        HOSTS.check(given(*values))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models", "/health/live", "/nothing"])
async def test_every_path_refuses_a_foreign_name_in_its_envelope(
    make_service: Callable[..., Service], path: str
) -> None:
    app = create_app(make_service(hosts=HOSTS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://evil.example") as http:
        posts = {"/v1/chat/completions": chat("say a"), "/v1/messages": messages("say a")}
        refused = await (http.post(path, json=posts[path]) if path in posts else http.get(path))
        known = await http.get("/v1/models", headers={"host": "localhost:1"})
    assert refused.status_code == 421
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "--allowed-host" in error["message"]
    assert ("code" in error) == (path != "/v1/messages")
    assert known.status_code == 200


def test_keys_and_binds_that_others_reach_need_no_such_check(small_checkpoint: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789abcdef")
    environ = {"KIMI_K2_CHECKPOINT": str(small_checkpoint)}
    own = parse_flags(["--allowed-host", "a.example", "--allowed-host", "b.example"], environ).hosts
    assert own is not None
    own.check(given("b.example:1"))
    assert parse_flags(["--host", "localhost"], environ).hosts is not None
    assert parse_flags(["--host", "0.0.0.0"], environ).hosts is None
    assert parse_flags(["--api-key-file", str(keys)], environ).hosts is None
